//! What can go wrong with keys, certificates and requests.

/// A certificate, key or request that could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("making a key pair")]
    MakeKey { source: rcgen::Error },

    #[error("drawing random bytes from the operating system")]
    Random,

    #[error("reading the private key of {owner}: it must be a PKCS #8 or SEC 1 key in PEM")]
    ReadKey { owner: String, source: rcgen::Error },

    #[error("reading the private key of {owner}: there is no private key in its PEM text")]
    NoKey { owner: String },

    #[error("reading the certificate of {owner}: {problem}")]
    ReadCertificate { owner: String, problem: String },

    #[error("the {authority} authority's certificate may not sign others; give a CA certificate")]
    NotAnAuthority { authority: &'static str },

    #[error(
        "the {authority} authority's key does not belong to its certificate; restore both from the same backup"
    )]
    KeyMismatch { authority: &'static str },

    #[error(
        "this machine's clock says {now}, which is before the {authority} authority was made ({begins}); set the clock"
    )]
    ClockBehind { authority: &'static str, now: jiff::Timestamp, begins: jiff::Timestamp },

    #[error(
        "the {authority} authority ended at {ended}, and this machine's clock says {now}; set the clock if it is wrong, else replace the authority"
    )]
    AuthorityEnded { authority: &'static str, now: jiff::Timestamp, ended: jiff::Timestamp },

    #[error("signing the certificate of {subject}")]
    Sign { subject: String, source: rcgen::Error },

    #[error("the name {name:?} cannot stand in a certificate")]
    BadName { name: String, source: rcgen::Error },

    #[error("{subject} has {count} organizations; a certificate of ours carries at most {max}")]
    TooManyOrganizations { subject: String, count: usize, max: usize },

    #[error("the time {at} is outside of what a certificate can hold")]
    BadTime { at: jiff::Timestamp },

    #[error("reading a certificate signing request: its PEM, form or signature is wrong")]
    ReadRequest { source: rcgen::Error },

    #[error("reading a certificate signing request: {problem}")]
    RequestForm { problem: &'static str },
}

//! What a task makes of containers that it finds.

use super::*;

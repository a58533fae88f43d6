# Pages over TLS, each on a port of its own: PORT=TEXT …, after the file of certificate and key.
import http.server
import ssl
import sys
import threading


def handler(text):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    return Page


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
threads = []
for argument in sys.argv[2:]:
    port, text = argument.split("=", 1)
    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), handler(text))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threads.append(threading.Thread(target=server.serve_forever))
    threads[-1].start()
for thread in threads:
    thread.join()

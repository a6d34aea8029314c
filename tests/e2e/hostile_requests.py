"""Requests that are wrong in a way somebody has attacked servers with, by name."""

from __future__ import annotations

from raw_client import request

from service_process import API

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
KEY = "e2e-service-key-0123456789"
AUTH = ("X-API-Key", KEY)
JSON = ("Content-Type", "application/json")
STATUS = f"{API}/status?company_id={COMPANY}"
SMUGGLED = (
    f"DELETE {API}/sessions/{COMPANY} HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\n\r\n".encode()
)


def post(*lines: str, body: bytes = b"") -> bytes:
    """Return a POST with these header lines, exactly as given, and this body."""
    first = [f"POST {API}/logout HTTP/1.1", "Host: a", f"X-API-Key: {KEY}"]
    head = "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""])
    return head.encode("latin-1") + body


def get(target: str = STATUS, *lines: str, version: str = "HTTP/1.1") -> bytes:
    """Return a GET with these header lines, exactly as given."""
    head = [f"GET {target} {version}", "Host: a", f"X-API-Key: {KEY}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def chunked(body: bytes, *lines: str) -> bytes:
    """Return a POST with a body that says itself where it ends, or tries to."""
    return post("Transfer-Encoding: chunked", *lines, body=body)


OBJECT = b'{"company_id": "%s"}' % COMPANY.encode()
NO_OBJECT = b'{"x": "%s"}' % COMPANY.encode()

# Where does the body end? Each of these has one answer, 400, and the connection ends with it.
FRAMING = {
    "CL and TE": post(
        "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "TE and CL": post(
        "Transfer-Encoding: chunked", "Content-Length: 4", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "CL twice": post("Content-Length: 0", "Content-Length: 0", body=SMUGGLED),
    "CL differing": post("Content-Length: 0", "Content-Length: 9", body=SMUGGLED),
    "CL list": post("Content-Length: 0, 0", body=SMUGGLED),
    "CL negative": post("Content-Length: -1", body=SMUGGLED),
    "CL plus": post("Content-Length: +0", body=SMUGGLED),
    "CL hexadecimal": post("Content-Length: 0x10", body=SMUGGLED),
    "CL float": post("Content-Length: 0.0", body=SMUGGLED),
    "CL empty": post("Content-Length:", body=SMUGGLED),
    "CL superscript": post("Content-Length: \xb2", body=SMUGGLED),
    "CL of 5000 digits": post("Content-Length: " + "9" * 5000, body=SMUGGLED),
    "CL with tab inside": post("Content-Length: 0\t0", body=SMUGGLED),
    "TE chunked, identity": post("Transfer-Encoding: chunked, identity", body=SMUGGLED),
    "TE identity": post("Transfer-Encoding: identity", body=SMUGGLED),
    "TE identity, chunked twice": post("Transfer-Encoding: chunked, chunked", body=SMUGGLED),
    "TE two lines": post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=SMUGGLED),
    "TE xchunked": post("Transfer-Encoding: xchunked", body=SMUGGLED),
    "TE gzip": post("Transfer-Encoding: gzip", body=SMUGGLED),
    "TE quoted": post('Transfer-Encoding: "chunked"', body=SMUGGLED),
    "TE with space before colon": post("Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE in HTTP/1.0": get(STATUS, "Transfer-Encoding: chunked", version="HTTP/1.0")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "TE folded": post("Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "CL folded": post("Content-Length:\r\n\t0", body=SMUGGLED),
    "header folded": post("X: a\r\n b", "Content-Length: 0", body=SMUGGLED),
    "TE with vertical tab": post("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE with NUL": post("Transfer-Encoding: chunked\x00", body=b"0\r\n\r\n" + SMUGGLED),
    "header with bare CR": post("X: a\rContent-Length: 0", "Content-Length: 0", body=SMUGGLED),
    "bare LF in the head": post(
        "X: a\nTransfer-Encoding: chunked", "Content-Length: 0", body=SMUGGLED
    ),
    "bare LF everywhere": get().replace(b"\r\n", b"\n"),
    "bare LF at the end of the head": get()[:-2] + b"\n",
    "host twice": get(STATUS, "Host: b"),
    "type twice": post("Content-Type: application/json", "Content-Length: 2", body=b"{}"),
    "header without a name": get(STATUS, ": x"),
    "header without a colon": get(STATUS, "nonsense"),
    "header with a space in its name": get(STATUS, "X Y: z"),
    "header that begins with a space": get(STATUS).replace(b"\r\nHost", b"\r\n Host"),
    "header name not ASCII": get(STATUS, "X-\xfc: z"),
    "header value with NUL": get(STATUS, "X: a\x00b"),
    "header value with DEL": get(STATUS, "X: a\x7fb"),
}

# Inside of a chunked body: the head is in order, so the app answers.
CHUNKS = {
    "size not hexadecimal": chunked(b"zz\r\n" + OBJECT + b"\r\n0\r\n\r\n" + SMUGGLED),
    "size with 0x": chunked(b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "size negative": chunked(b"-1\r\n\r\n0\r\n\r\n" + SMUGGLED),
    "size with underscore": chunked(b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n" + SMUGGLED),
    "size empty": chunked(b"\r\n\r\n" + SMUGGLED),
    "size of 300 digits": chunked(b"f" * 300 + b"\r\nx\r\n0\r\n\r\n" + SMUGGLED),
    "size line without an end": chunked(b"1" * 100_000),
    "extension without an end": chunked(b"1;" + b"x" * 100_000),
    "extension with bare CR": chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "extension that is none": chunked(b"5;=;\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "extension of blanks": chunked(b"5;a" + b" " * 8000 + b"!\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "size line ended by LF": chunked(b"5\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "chunk longer than its size": chunked(b"3\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "chunk ended by LF": chunked(b"5\r\nhello\n0\r\n\r\n" + SMUGGLED),
    "chunks of one byte": chunked(b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n" + SMUGGLED),
    "chunk cut off": chunked(b"50\r\nhello"),
    "last chunk missing": chunked(b"5\r\nhello\r\n"),
    "end of trailers missing": chunked(b"5\r\nhello\r\n0\r\nX: y\r\n"),
    "trailer with framing": chunked(b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED),
    "trailer with a host": chunked(b"0\r\nHost: b\r\n\r\n" + SMUGGLED),
    "trailer folded": chunked(b"0\r\nX: a\r\n b\r\n\r\n" + SMUGGLED),
    "trailer with bare LF": chunked(b"0\r\nX: a\nY: b\r\n\r\n" + SMUGGLED),
    "trailers too many": chunked(b"0\r\n" + b"X: y\r\n" * 1000 + b"\r\n" + SMUGGLED),
    "trailer too long": chunked(b"0\r\nX: " + b"y" * 600_000 + b"\r\n\r\n" + SMUGGLED),
    "body shorter than it says": post("Content-Length: 500", body=OBJECT),
}

# One line of the request is not one.
LINES = {
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/0.9 with version": b"GET /healthz HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/2": b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/1.10": get(version="HTTP/1.10"),
    "http/1.1": get(version="http/1.1"),
    "no version": b"GET /healthz \r\nHost: a\r\n\r\n",
    "four words": b"GET /healthz x HTTP/1.1\r\nHost: a\r\n\r\n",
    "two blanks": b"GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "tabs for blanks": b"GET\t/healthz\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "small letters": b"get /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "method with NUL": b"GE\x00T /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "method of 1000 letters": b"G" * 1000 + b" /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "target not ASCII": b"GET /healthz\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "target with NUL": b"GET /healthz\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target is a host": b"GET evil.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target is a star": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "target too long": get(STATUS + "&x=" + "y" * 9000),
    "target without an end": b"GET /" + b"x" * 100_000,
    "empty lines": b"\r\n\r\n\r\n",
    "only NUL": b"\x00" * 64 + b"\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x0d\x0a\x0d\x0a" + b"\x11" * 190,
    "PROXY v1": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "headers too many": get(STATUS, *["X: y"] * 70),
    "headers too many and too long": get(STATUS, *["X: " + "y" * 8000] * 70),
    "header too long": get(STATUS, "X: " + "y" * 9000),
    "header without an end": get(STATUS)[:-4] + b"\r\nX: " + b"y" * 100_000,
    "expectation unknown": get(STATUS, "Expect: 200-ok"),
    "expectation twice": post(
        "Expect: 100-continue, 100-continue", "Content-Length: 2", body=b"{}"
    ),
    "scheme contradicts itself": get(
        STATUS, "X-Forwarded-Proto: https", "X-Forwarded-Protocol: http"
    ),
}

# In order as HTTP, so that the app answers: with one of these numbers.
FOR_THE_APP: dict[str, tuple[bytes, set[int]]] = {
    "absolute address": (get(f"http://evil.example{STATUS}"), {200}),
    "absolute address of another scheme": (get("ftp://evil.example/healthz"), {200, 400, 404}),
    "fragment": (get("/healthz#x"), {200, 400, 404}),
    "underscores": (request("GET", STATUS, [("X_API_Key", KEY)]), {401}),
    "other underscores": (get(STATUS, "Content_Length: 9", "Transfer_Encoding: chunked"), {200}),
    "path from a header": (get(STATUS, "SCRIPT_NAME: /evil", "PATH_INFO: /evil"), {200}),
    "key twice": (get(STATUS, f"X-API-Key: {KEY}"), {401}),
    "key not ASCII": (
        request("GET", STATUS).replace(b"\r\n\r\n", b"\r\nX-API-Key: \xff\xfe\r\n\r\n"),
        {401},
    ),
    "key of 7000 bytes": (request("GET", STATUS, [("X-API-Key", "x" * 7000)]), {401}),
    "cookie bomb": (request("GET", STATUS, [("Cookie", ";" * 7000)]), {401}),
    "cookie with nonsense": (
        request("GET", STATUS, [("Cookie", 'a="\\777\\";;=;\\"' * 300)]),
        {401},
    ),
    "host with nonsense": (get().replace(b"Host: a", b"Host: ]a b<>[@:99999999"), {200, 400}),
    "HTTP/1.9": (get(version="HTTP/1.9"), {200}),
    "host too long for a name": (
        get("/dashboard/login", "Accept: text/html").replace(b"Host: a", b"Host: " + b"a" * 64),
        {400},
    ),
    "no host": (get().replace(b"Host: a\r\n", b""), {200, 400}),
    "accept bomb": (get(STATUS, "Accept: " + "a/b;q=0.1," * 700), {200}),
    "accept with nonsense": (
        get(STATUS, "Accept: */*;q=nan;q=-1;;,,;=", "Accept-Language: ;;q=x"),
        {200},
    ),
    "range with nonsense": (
        get("/dashboard/assets/x.js", "Range: bytes=--1,0-,5-2,x"),
        {200, 404, 416},
    ),
    "conditions with nonsense": (
        get("/dashboard/assets/x.js", 'If-None-Match: "', "If-Modified-Since: -1"),
        {200, 304, 404},
    ),
    "origin with nonsense": (get(STATUS, "Origin: null\t,,://"), {200}),
    "path with NUL": (get("/healthz%00"), {404}),
    "path upwards": (get("/dashboard/assets/../../../../etc/passwd"), {404}),
    "path upwards, encoded": (get("/dashboard/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), {404}),
    "path upwards, twice encoded": (get("/dashboard/assets/%252e%252e%252fetc"), {404}),
    "path with backslashes": (get("/dashboard/assets/..%5c..%5cetc"), {404}),
    "path not UTF-8": (get("/%ff%fe/%c0%ae%c0%ae/"), {404}),
    "path half encoded": (get("/%/%2/%zz"), {404}),
    "path of slashes": (get("/" * 4000), {302, 404}),
    "path of dots": (get("/." * 2000), {404}),
    "query not UTF-8": (get(f"{API}/status?company_id=%ff%fe%00"), {400}),
    "query of names": (get(STATUS + "&" + "&".join(f"{n:x}" for n in range(1700))), {400}),
    "query of separators": (get(STATUS + "&" * 7000), {200}),
    "query with name not UTF-8": (get(STATUS + "&%ff=1"), {400}),
    "query half encoded": (get(f"{API}/status?company_id=%&%=%zz"), {400}),
    "length of zeros": (post("Content-Length: 0000000000"), {400}),
    "more than the body takes": (post("Content-Length: " + "9" * 30, body=b"{"), {413}),
    "body of GET": (get(STATUS, "Content-Length: 5") + b"hello", {200}),
    "upgrade to h2c": (
        get(
            STATUS,
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAA",
        ),
        {200},
    ),
    "upgrade to websocket": (
        get(STATUS, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
        {400},
    ),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", {404, 405}),
    "TRACE": (b"TRACE /healthz HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n", {404, 405}),
    "unknown method": (b"FROBNICATE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", {404, 405}),
    "override of the method": (get(STATUS, "X-HTTP-Method-Override: DELETE"), {200}),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {200, 204, 400, 404}),
    "packed body": (
        post("Content-Encoding: gzip", "Content-Length: 20", body=b"\x1f\x8b" + b"x" * 18),
        {415},
    ),
    "packed twice": (post("Content-Encoding: gzip, br", "Content-Length: 2", body=b"{}"), {415}),
    "form for JSON": (
        post("Content-Length: 3", body=b"a=b").replace(
            b"application/json", b"application/x-www-form-urlencoded"
        ),
        {415},
    ),
    "type with nonsense": (
        post("Content-Length: 2", body=b"{}").replace(
            b"application/json", b'application/json;charset="'
        ),
        {400, 415},
    ),
    "charset unknown": (
        post("Content-Length: 2", body=b"{}").replace(
            b"application/json", b"application/json;charset=x"
        ),
        {400},
    ),
    "login without a token": (
        request(
            "POST",
            "/dashboard/login",
            [("Content-Type", "application/x-www-form-urlencoded")],
            b"&=&" * 2000,
        ),
        {403},
    ),
    "login with parts": (
        request(
            "POST",
            "/dashboard/login",
            [("Content-Type", "multipart/form-data; boundary=x")],
            b"--x\r\n" * 1000,
        ),
        {403, 413},
    ),
    "login with a boundary of blanks": (
        request(
            "POST",
            "/dashboard/login",
            [("Content-Type", "multipart/form-data; boundary=" + " " * 300)],
            b"x" * 4000,
        ),
        {403, 413},
    ),
    "login too large": (
        request(
            "POST",
            "/dashboard/login",
            [("Content-Type", "application/x-www-form-urlencoded")],
            b"a" * 100_000,
        ),
        {413},
    ),
    "login too large, in chunks": (
        b"POST /dashboard/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        + b"1\r\n&\r\n" * 20_000
        + b"0\r\n\r\n",
        {403, 413},
    ),
    "stream id with nonsense": (
        get(f"{API}/events?last_event_id=%ff%00-1&company_id=x", "Last-Event-ID: \xff"),
        {400},
    ),
}

# Bodies that the JSON parser has to get through. All are refused.
BOMBS = {
    "nested lists": b"[" * 60_000,
    "nested lists, more": b"[" * 1_000_000,
    "nested objects": b'{"a":' * 12_000,
    "many names": b"{" + b",".join(b'"%x":0' % n for n in range(6_000)) + b"}",
    "a million names": b"{" + b",".join(b'"%x":0' % n for n in range(1_000_000)) + b"}",
    "one name again and again": b"{" + b",".join([b'"a":0'] * 10_000) + b"}",
    "the last name twice": b"{" + b",".join(b'"%x":0' % (n % 5_999) for n in range(6_000)) + b"}",
    "empty lists": b'{"a":[' + b"[]," * 20_000 + b"[]]}",
    "empty objects": b'{"a":[' + b"{}," * 20_000 + b"{}]}",
    "long whole number": b'{"company_id":' + b"9" * 60_000 + b"}",
    "many long numbers": b'{"a":[' + (b"9" * 4_000 + b",") * 15 + b"0]}",
    "long fraction": b'{"company_id":0.' + b"3" * 60_000 + b"}",
    "huge exponent": b'{"company_id":1e999999999999}',
    "tiny exponent": b'{"company_id":1e-999999999999}',
    "minus zero": b'{"company_id":-0}',
    "NaN": b'{"company_id":NaN}',
    "half a character": b'{"company_id":"\\ud800"}',
    "half a character as a name": b'{"\\udc00":1}',
    "half a character twice": b'{"\\ud800":1,"\\ud800":1}',
    "NUL as a name": b'{"\\u0000":1}',
    "byte order mark": b"\xef\xbb\xbf" + OBJECT,
    "UTF-16": OBJECT.decode().encode("utf-16"),
    "UTF-32": OBJECT.decode().encode("utf-32"),
    "UTF-7": OBJECT.decode().encode("utf-7").replace(b"{", b"+AHs-"),
    "not UTF-8": b'{"company_id":"\xff\xfe"}',
    "overlong": b'{"company_id":"\xc0\xaf"}',
    "comments": b"/* x */" + OBJECT,
    "two values": OBJECT + OBJECT,
    "comma at the end": OBJECT[:-1] + b",}",
    "blanks": b" " * 60_000 + b"x",
    "prototype": b'{"__proto__":{"x":1},"constructor":1,"company_id":"x"}',
    "escapes": b'{"company_id":"' + rb"\u0041" * 10_000 + b'"}',
    "backslashes": b'{"company_id":"' + b"\\" * 60_001 + b'"}',
}
BOMBS_FOR_MESSAGES = {
    "a megabyte of lists": b'{"text":[' + b"[]," * 333_000 + b"[]]}",
    "a megabyte of objects": b'{"text":[' + b"{}," * 333_000 + b"{}]}",
    "a megabyte of numbers": b'{"text":[' + b"0," * 500_000 + b"0]}",
    "a megabyte of names": b"{" + b",".join(b'"%x":0' % n for n in range(100_000)) + b"}",
    "a megabyte, the last name twice": b"{"
    + b",".join(b'"%x":0' % (n % 99_999) for n in range(100_000))
    + b"}",
    "a megabyte of empty texts": b'{"text":[' + b'"",' * 333_000 + b'""]}',
    "a megabyte of escapes": b'{"text":"' + rb"\u0041" * 170_000 + b'"}',
    "a megabyte of quotes": b'{"text":"' + rb"\"" * 500_000 + b'"}',
    "a megabyte of blanks": b'{"text":' + b" " * 1_000_000 + b"1}",
    "a megabyte, not closed": b'{"text":"' + b"x" * 1_000_000,
}
PHONE_NUMBERS = [
    "+" * 31,
    "9" * 31,
    "+" + "0" * 30,
    "+1" + "-" * 29,
    "1" + "(" * 30,
    "1" + ")(" * 15,
    "+999999999999999",
    "+1 (((((((((((((((((((((((((((2",
    "+55 11 98765-4321 ext. 99999999",
    "+55;phone-context=evil.example",
    "tel:+5511987654321;isub=1",
    "\uff0b\uff15\uff15\uff11\uff11",
    "\u0665\u0665\u0661\u0661\u0669\u0668\u0667\u0666\u0665\u0664\u0663",
    "+5511987654321\u202e",
    "+5511987654321\n",
    "+1\u00ad2025550123",
    "e" * 31,
    "+0",
    "-1",
    "1e9",
]

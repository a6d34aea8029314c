"""Proxies in front: which of the addresses in X-Forwarded-For is the client's."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix


def believe_proxies(app: Flask, count: int) -> None:
    """Take the client's address from X-Forwarded-For, as the outermost of so many proxies saw it.

    Each proxy appends who called it, so the last `count` addresses come from proxies that are ours,
    and what a client wrote there itself stands before them. With fewer addresses than proxies the
    request came past one of them, and the header says nothing. Scheme and host are not taken over:
    nothing here depends on them.
    """
    app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
        app.wsgi_app, x_for=count, x_proto=0, x_host=0, x_port=0, x_prefix=0
    )

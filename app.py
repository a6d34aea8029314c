"""The WSGI entry point: `gunicorn -c gunicorn.conf.py app:app`."""

from crm_whatsapp.gunicorn_worker import wsgi_app

app = wsgi_app()

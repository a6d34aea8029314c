"""Keep every company's WhatsApp session alive for a CRM."""

__version__ = "0.1.0"

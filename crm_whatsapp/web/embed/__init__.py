"""The files of the page that stands in a frame of the CRM."""

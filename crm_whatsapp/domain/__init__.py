"""The words and rules of a WhatsApp connection; imports nothing of the other layers."""

"""The local WhatsApp edge: see README.md in this folder."""

from .sandbox import Sandbox, SandboxError

__all__ = ["Sandbox", "SandboxError"]

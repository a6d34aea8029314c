"""A CRM that holds the embed page: the very page that the integration guide tells it to have."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crm_site import Answer, serving

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "integration.md"
SECTION = "## The whole button, in a frame"
PLACEHOLDER = "https://whatsapp.example.com"
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>A page of a CRM</title><link rel="icon" href="data:,">
</head>
<body>
<h1>Settings</h1>
{frame}
</body>
</html>
"""
# What the guide calls the CRM's own: who is signed in, and for which company. The test looks at
# `crm` and changes what is in it.
_OWN = """
const crm = (window.crm = {start});
Object.assign(crm, {{ asked: [], heard: [], next: null }});
window.addEventListener("message", ({{ origin, data }}) => crm.heard.push({{ origin, ...data }}));
const session = () => ({{ data: {{ session: {{ access_token: crm.token }} }} }});
export let companyId = crm.companyId;
crm.choose = (other, token) => {{ companyId = other; crm.token = token; }};
export const supabase = {{
  auth: {{
    getSession: async () => (crm.asked.push("getSession"), session()),
    refreshSession: async () => {{
      crm.asked.push("refreshSession");
      crm.token = crm.next ?? crm.token;
      return session();
    }},
  }},
}};
"""


def guide_block(language: str) -> str:
    """Return the code of the guide's section, in this language."""
    text = GUIDE.read_text()
    section = text[text.index(SECTION) :].partition("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(block)


@dataclass(slots=True)
class CrmPages:
    """What a CRM serves. service: the origin of the service; token: of the user signed in."""

    company_id: str
    token: str = ""
    service: str = ""
    origin: str = ""

    def find(self, path: str) -> Answer:
        """Answer a request."""
        if path == "/":
            return 200, "text/html", _PAGE.format(frame=guide_block("html")).encode()
        if path == "/whatsapp.js":
            code = guide_block("js")
            assert code.count(PLACEHOLDER) == 1
            return 200, "text/javascript", code.replace(PLACEHOLDER, self.service).encode()
        if path == "/crm.js":
            start = json.dumps({"token": self.token, "companyId": self.company_id})
            return 200, "text/javascript", _OWN.format(start=start).encode()
        return 404, "text/plain", b""


@contextmanager
def crm_pages(company_id: str) -> Iterator[CrmPages]:
    """Serve the pages of a CRM on an origin of its own."""
    pages = CrmPages(company_id=company_id)
    with serving(pages.find) as origin:
        pages.origin = origin
        yield pages

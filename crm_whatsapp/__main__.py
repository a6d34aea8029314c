"""`python -m crm_whatsapp`."""

import sys

from crm_whatsapp.cli import main

if __name__ == "__main__":
    sys.exit(main())

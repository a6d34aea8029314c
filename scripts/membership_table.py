"""A CRM that keeps who belongs to which company in a table of its own, and says so by the function.

The SQL of the function is the one of docs/integration.md; a test compares them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import psycopg

TABLE = """
create schema crm;
create table crm.company_members (
    user_id uuid not null,
    company_id uuid not null,
    role text,
    primary key (user_id, company_id)
);
"""
FUNCTION = """\
create or replace function public.whatsapp_companies_of_user_v1(p_user_id uuid)
returns table (company_id uuid, role text)
language sql stable security definer
set search_path = ''
as $function$
    select m.company_id, m.role
    from crm.company_members as m
    where m.user_id = p_user_id
$function$;
"""
MIGRATION = Path(__file__).resolve().parent.parent / "migrations" / "0010_membership.sql"
CLOSED = """
revoke all on function public.whatsapp_companies_of_user_v1(uuid)
    from public, anon, authenticated, service_role;
grant execute on function public.whatsapp_companies_of_user_v1(uuid) to service_role;
"""


def shipped() -> str:
    """Return what puts the function back that the migration ships, with its comment and rights."""
    text = MIGRATION.read_text()
    begin = text.index("create function public.whatsapp_companies_of_user_v1")
    end = text.index("create function", begin + 1)
    return text[begin:end].replace("create function", "create or replace function") + CLOSED


class MembershipTable:
    """The table and the function, until the end of the with statement: databases are shared."""

    def __init__(self, db_url: str) -> None:
        self.database = psycopg.connect(db_url, autocommit=True)

    def __enter__(self) -> MembershipTable:
        self.database.execute(TABLE.encode())
        self.database.execute(FUNCTION.encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.database.execute(shipped().encode())
        self.database.execute(b"drop schema crm cascade")
        self.database.close()

    def add(self, user_id: str, company_id: str, role: str | None = None) -> None:
        """Have a user belong to a company, or have another role there."""
        self.database.execute(
            "insert into crm.company_members values (%s, %s, %s) "
            "on conflict (user_id, company_id) do update set role = excluded.role",
            (user_id, company_id, role),
        )

    def remove(self, user_id: str, company_id: str) -> None:
        """Take a user out of a company."""
        self.database.execute(
            "delete from crm.company_members where user_id = %s and company_id = %s",
            (user_id, company_id),
        )

"""Users whose companies are said by the CRM's table: their tokens say only who they are."""

from typing import Any

import pytest

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.memberships import MembershipUnknown
from crm_whatsapp.service.memberships import Memberships, MembershipTerms
from crm_whatsapp.service.signing_keys import SigningKeys
from crm_whatsapp.web.auth import PresentedCredentials, Principal
from crm_whatsapp.web.error_handlers import status_of
from crm_whatsapp.web.errors import Forbidden
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator
from tests.contract.membership_fakes import FakeMembershipStore
from tests.unit.web.token_mint import (
    ALL,
    COMPANY,
    EC_KEY,
    ISSUER,
    ROLES,
    SECRET,
    TERMS,
    USER,
    Hands,
    KeyList,
    jwk,
    token,
)

OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
THIRD = "22222222-60e5-4e93-a0df-f55dd5c3d40c"


class Project:
    """A project that keeps who belongs where in a table."""

    def __init__(self) -> None:
        self.store = FakeMembershipStore()
        self.hands = Hands()
        self.users = UserTokenAuthenticator(
            SigningKeys(KeyList(jwk(EC_KEY, "ec-1")), TERMS, self.hands),
            UserTerms(issuer=ISSUER, role_scopes=ROLES, secret=SECRET),
            memberships=Memberships(
                self.store,
                MembershipTerms(
                    cache_seconds=45.0, stale_seconds=300.0, retry_seconds=5.0, wait_seconds=30.0
                ),
                self.hands,
            ),
        )

    def ask(self, **claims: Any) -> Principal | None:
        return self.users.authenticate(PresentedCredentials(bearer_token=token(**claims)))

    def known(self, **claims: Any) -> Principal:
        principal = self.ask(**claims)
        assert principal is not None
        return principal


@pytest.fixture
def project() -> Project:
    return Project()


def test_a_user_has_the_companies_and_roles_of_the_table_and_the_claim_says_nothing(
    project: Project,
) -> None:
    project.store.add(USER, OTHER, "")
    project.store.add(USER, THIRD, "agent")

    principal = project.known(app_metadata={"company_id": COMPANY, "whatsapp_role": "nobody"})

    assert principal.companies == {OTHER: ALL, THIRD: {Scope.READ, Scope.SEND}}
    assert principal.scopes == ALL
    assert principal.user_id == USER
    assert not principal.is_service
    assert not principal.makes_keys
    assert project.users.find_principal(principal.id) == principal


def test_a_token_without_any_claim_of_ours_is_enough(project: Project) -> None:
    project.store.add(USER, OTHER, "agent")

    assert project.known(app_metadata=...).companies == {OTHER: {Scope.READ, Scope.SEND}}


def test_several_roles_in_a_company_add_up_and_one_that_opens_nothing_takes_nothing(
    project: Project,
) -> None:
    project.store.add(USER, OTHER, "agent")
    project.store.add(USER, OTHER, "nobody")
    project.store.add(USER, THIRD, "nobody")
    project.store.add(USER, COMPANY, "not listed")

    assert project.known().companies == {OTHER: {Scope.READ, Scope.SEND}}


def test_a_user_of_no_company_is_refused(project: Project) -> None:
    with pytest.raises(Forbidden, match="no company"):
        project.ask()
    project.store.add(USER, OTHER, "nobody")
    project.hands.seconds += 45
    with pytest.raises(Forbidden, match="role opens nothing"):
        project.ask()


def test_a_forged_token_asks_nobody(project: Project) -> None:
    assert project.ask(key_id="made-up") is None
    assert project.ask(iss="https://evil.example/auth/v1") is None
    assert project.store.calls == 0


def test_a_thousand_polls_and_tokens_of_a_user_ask_once(project: Project) -> None:
    project.store.add(USER, OTHER)
    first = project.known()
    for number in range(100):
        again = project.known(session_id=str(number))
        assert again.companies == first.companies
        assert project.users.find_principal(first.id) is first
    assert project.store.calls == 1


def test_who_is_removed_is_out_and_back_in(project: Project) -> None:
    project.store.add(USER, OTHER)
    principal = project.known()
    project.store.remove(USER, OTHER)
    project.hands.seconds += 45
    assert project.users.find_principal(principal.id) is None
    with pytest.raises(Forbidden):
        project.ask()
    project.store.add(USER, OTHER, "agent")
    project.hands.seconds += 45
    now = project.users.find_principal(principal.id)
    assert now is not None
    assert now.scopes == {Scope.READ, Scope.SEND}


def test_while_it_cannot_be_told_the_answer_is_neither_yes_nor_no(project: Project) -> None:
    project.store.failure = StoreUnavailable()
    with pytest.raises(MembershipUnknown) as refusal:
        project.ask()
    assert status_of(refusal.value) == 503
    project.store.failure = None
    project.store.add(USER, OTHER)
    project.hands.seconds += 5
    principal = project.known()
    project.store.failure = StoreUnavailable()
    project.hands.seconds += 299
    assert project.users.find_principal(principal.id) is principal
    project.hands.seconds += 1
    with pytest.raises(MembershipUnknown):
        project.users.find_principal(principal.id)

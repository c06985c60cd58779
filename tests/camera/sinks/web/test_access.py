import pytest

from edge_vit.camera.sinks.web.access import Access, is_loopback
from edge_vit.camera.sinks.web.dashboard import DashboardSink
from edge_vit.errors import SpecError

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("camera.local", False),
        ("localhost.evil.example", False),
    ],
)
def test_knows_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.local"])
def test_refuses_to_serve_others_without_a_token(host):
    with pytest.raises(SpecError, match="export EDGEVIT_TOKEN="):
        Access(host, None)
    Access(host, TOKEN)


def test_refuses_a_token_that_is_easily_guessed():
    with pytest.raises(SpecError, match="got 6 characters, expected 16"):
        Access("0.0.0.0", "secret")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8080", "granted"),
        ("127.0.0.1", "granted"),
        ("[::1]:8080", "granted"),
        ("LocalHost:1", "granted"),
        ("evil.example:8080", "host"),
        ("127.0.0.1.evil.example", "host"),
        ("", "host"),
        ("localhost:8080:9", "host"),
    ],
)
def test_a_name_that_a_stranger_pointed_here_gets_nothing(host, expected):
    assert Access("127.0.0.1", None).judge({"host": host}, {}) == expected


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, {}, "token"),
        ({"authorization": f"Bearer {TOKEN}"}, {}, "granted"),
        ({"authorization": f"bearer  {TOKEN}"}, {}, "granted"),
        ({"authorization": f"Basic {TOKEN}"}, {}, "token"),
        ({"authorization": "Bearer wrong-horse-battery"}, {}, "token"),
        ({"authorization": "Bearer"}, {}, "token"),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, {}, "token"),
        ({}, {"token": TOKEN}, "new cookie"),
        ({}, {"token": ""}, "token"),
        ({"cookie": f"edgevit={TOKEN}"}, {}, "token"),  # the cookie is not the token
        ({"cookie": "edgevit="}, {}, "token"),
        ({"cookie": "\x00;;;=;"}, {}, "token"),
        ({"authorization": "Bearer ümläut-pässwörd"}, {}, "token"),
    ],
)
def test_only_who_knows_the_token_gets_in(headers, query, expected):
    assert Access("0.0.0.0", TOKEN).judge(headers, query) == expected


def test_the_cookie_opens_until_the_process_ends():
    access = Access("0.0.0.0", TOKEN)
    cookie = access.cookie.partition(";")[0]
    assert TOKEN not in access.cookie
    assert "HttpOnly; SameSite=Strict" in access.cookie
    assert access.judge({"cookie": f"other=1; {cookie}"}, {}) == "granted"
    assert Access("0.0.0.0", TOKEN).judge({"cookie": cookie}, {}) == "token"


def test_a_token_counts_on_loopback_too():
    assert Access("127.0.0.1", TOKEN).judge({"host": "localhost"}, {}) == "token"


def test_pages_of_other_sites_get_nothing_but_may_link_here():
    access, host = Access("127.0.0.1", None), {"host": "localhost"}
    for site in ("cross-site", "same-site"):
        asked = {**host, "sec-fetch-site": site}
        assert access.judge({**asked, "sec-fetch-mode": "no-cors"}, {}) == "cross-site"
        assert access.judge({**asked, "sec-fetch-mode": "navigate"}, {}) == "granted"
    assert access.judge({**host, "sec-fetch-site": "same-origin"}, {}) == "granted"


def test_tokens_are_compared_in_constant_time(monkeypatch):
    from edge_vit.camera.sinks.web import access as module

    compared = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b)
    )
    Access("0.0.0.0", TOKEN).judge({"authorization": "Bearer x"}, {"token": "y" * 5000})
    assert len(compared) == 3  # header, cookie and query


@pytest.mark.parametrize(
    ("origin", "verdict"),
    [
        ("http://localhost:8080", "granted"),
        ("http://evil.example", "cross-site"),
        ("null", "cross-site"),
    ],
)
def test_a_page_of_another_origin_gets_nothing(origin, verdict):
    access = Access("127.0.0.1", None)
    assert access.judge({"host": "localhost:8080", "origin": origin}, {}) == verdict


def test_a_dashboard_refuses_to_serve_others_without_a_token():
    with pytest.raises(SpecError, match="anybody could watch"):
        DashboardSink("0.0.0.0")

"""The pass over a text: every kind is found where it stands, look-alikes stay, and no text breaks it."""

from __future__ import annotations

import itertools
import json
import os
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_personal import FOUND

from burnish.data.private.crypto import is_base58check, is_bech32
from burnish.data.private.find import find
from burnish.data.private.ids import LETTERED, SAID, STRONG
from burnish.data.private.keys import Provider, entropy, providers
from burnish.data.private.kinds import NAMED, STRUCTURED, Found, Kind, resolve
from burnish.data.private.payments import luhn, mod97
from burnish.data.private.replace import placeholder, remove, replace

PROVIDERS = providers().all


def found(text: str) -> list[tuple[str, str]]:
    return [(item.kind.value, text[item.start : item.end]) for item in find(text)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("from 84.23.10.7, denied", "IP", "84.23.10.7"),
        ("client [2001:db8:85a3::8a2e:370:7334]:443", "IP", "2001:db8:85a3::8a2e:370:7334"),
        ("fe80::1ff:fe23:4567:890a", "IP", "fe80::1ff:fe23:4567:890a"),
        ("mac 00:1A:2B:3C:4D:5E.", "MAC", "00:1A:2B:3C:4D:5E"),
        ("01-23-45-67-89-ab", "MAC", "01-23-45-67-89-ab"),
        ("0123.4567.89ab", "MAC", "0123.4567.89ab"),
        ("to 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "CRYPTO", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "CRYPTO", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
        (
            "0x52908400098527886E0F7030069857D2E4169EE7 is mine",
            "CRYPTO",
            "0x52908400098527886E0F7030069857D2E4169EE7",
        ),
        *[
            (f"send to {address}, please", "CRYPTO", address)
            for address in (
                "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
                "LM2WMpR1Rp6j3Sa59cMXMs1SPzj9eXpGc1",
                "ltc1qw508d6qejxtdg4y5r3zarvary0c5xw7kgmn4n9",
                "DH5yaieqoZN36fDVciNyRueRGvGLR3mr7L",
                "XdAUmwtig27HBG6WfYyHAzP8n6XC9jESEw",
                "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8",
                "rG1QQv2nh2gr7RCZ1P8YYcBUKCCN633jCn",
                "addr1vpu5vlrf4xkxv2qpwngf6cjhtw542ayty80v8dyr49rf5eg0yu80w",
                "4AdUndXHHZ6cfufTMvppY6JwXNouMBzSkbLYfpAV5Usx3skxNgYeYTRj5UzqtReoS44qo9mtmXCqY45DJ852K5Jv2684Rge",
            )
        ],
        ("GPS 40.7128, -74.0060", "COORDINATES", "40.7128, -74.0060"),
        ("40.7128 N, 74.0060 W", "COORDINATES", "40.7128 N, 74.0060 W"),
        ("40°42'46\" N 74°00'22\" W", "COORDINATES", "40°42'46\" N 74°00'22\" W"),
        ('{"lat": 40.7128}', "COORDINATES", "40.7128"),
        ("Born on 12 March 1984", "DATE_OF_BIRTH", "12 March 1984"),
        ("date of birth: 1984-03-12", "DATE_OF_BIRTH", "1984-03-12"),
        ("DOB 03/12/84", "DATE_OF_BIRTH", "03/12/84"),
        ("Date of birth:\n  03/12/1984", "DATE_OF_BIRTH", "03/12/1984"),
        ("geboren am 12.03.1984", "DATE_OF_BIRTH", "12.03.1984"),
        ("Geburtsdatum: 1984-03-12", "DATE_OF_BIRTH", "1984-03-12"),
        ("née le 12/03/1984 à Lyon", "DATE_OF_BIRTH", "12/03/1984"),
        ("date de naissance : 12/03/1984", "DATE_OF_BIRTH", "12/03/1984"),
        ("fecha de nacimiento: 12/03/1984", "DATE_OF_BIRTH", "12/03/1984"),
        ("nata il 12/03/1984", "DATE_OF_BIRTH", "12/03/1984"),
        ("data de nascimento 12-03-1984", "DATE_OF_BIRTH", "12-03-1984"),
        ("geboortedatum 12-03-1984", "DATE_OF_BIRTH", "12-03-1984"),
        ("data urodzenia 12.03.1984", "DATE_OF_BIRTH", "12.03.1984"),
        ("full width ａｎｎ＠ｓｈｏｐ．ｏｒｇ", "EMAIL", "ａｎｎ＠ｓｈｏｐ．ｏｒｇ"),
        ("card ４１１１ １１１１ １１１１ １１１１", "CARD", "４１１１ １１１１ １１１１ １１１１"),
        ("call +٤٤ ٢٠ ٧٩٤٦ ٠٩٥٨", "PHONE", "+٤٤ ٢٠ ٧٩٤٦ ٠٩٥٨"),
        ("reset?email=ann%40shop.org&x", "EMAIL", "ann%40shop.org"),
        ("postgres://u:p@ss:w0rd@db/x", "SECRET", "u:p@ss:w0rd"),
        ("my ssn is 123 45 6789", "SSN", "123 45 6789"),
        ("it says 123-45-6789 here", "SSN", "123-45-6789"),
        ("passport number X1234567", "NATIONAL_ID", "X1234567"),
        ("Driver's license: kD668692", "NATIONAL_ID", "kD668692"),
        ("NINO AB 12 34 56 C", "NATIONAL_ID", "AB 12 34 56 C"),
        ("RSSMRA85T10A562S", "NATIONAL_ID", "RSSMRA85T10A562S"),
        ("cpf 390.533.447-05", "NATIONAL_ID", "390.533.447-05"),
        ("NHS number 943 476 5919", "NATIONAL_ID", "943 476 5919"),
        ("SIN: 123 456 782", "NATIONAL_ID", "123 456 782"),
        ("756.9217.0769.85", "NATIONAL_ID", "756.9217.0769.85"),
        ("card 060493426922", "CARD", "060493426922"),
        ("Desk: 060.804.1932x5827", "PHONE", "060.804.1932x5827"),
        ("raw\\n+41 (0)70 424 76 13", "PHONE", "+41 (0)70 424 76 13"),
        ("494 17 271 office", "PHONE", "494 17 271"),
    ],
)  # fmt: skip
def test_each_kind_is_found_where_it_stands(text: str, kind: str, value: str) -> None:
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "at 10:30:15 and 23:59:59", "std::vector<int> a::b::c", "127.0.0.1 and ::1", "version 1.2.3.4", "v10.0.0.1",
        "weights 0.1234, 0.5678",
        "DH5yaieqoZN36fDVciNyRueRGvGLR3mr7M", "national holiday 12/03/1984", "100%40 percent.org",
        "40.7128, -74.0060", "the learning rate fell to 0.0001, 0.0002 at position 3",
        "released on 2021-03-12", "he was born in 1984", "id 000-12-3456", "id 666-12-3456", "id 123-00-4567",
        "sha 3f2a9c1d4b5e6f708192a3b4c5d6e7f809a1b2c3", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "password = getpass.getpass(prompt)", "password: str = None", "token = self.peek_token[0]", "key=lambda x: x",
        "api_key=os.environ['KEY']", "password=None):", "the key is first_name", "http://user:password@host/",
        "secret: ${DB_SECRET}",
        "12-34-56-78-9", "AB12CD", "GB12 and DE44", "sklearn-linear-model-tests-0", "2025-07-15 12:30:45.123456", "1.234.567,89",
        "100 200 300 400", "ISBN 978-3-16-148410-0", "RFC 2119, section 3.1.2.1",
    ],
)  # fmt: skip
def test_look_alikes_stay(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_providers_example_is_found_and_its_look_alike_is_not(provider: Provider) -> None:
    for around in ("{}", "key: {}, then", '{{"k": "{}"}}', "a\\n{}"):
        text = around.format(provider.positive)
        rules = {item.rule for item in find(text) if item.kind is Kind.SECRET}
        assert provider.name in rules or (rules and provider.near), (provider.name, text, rules)
    assert not [item for item in find(provider.negative) if item.kind is Kind.SECRET]


def test_there_are_forty_providers_and_more_each_with_a_source() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS) >= 40
    assert all(provider.source.startswith("https://") for provider in PROVIDERS)


def test_the_provider_file_holds_no_whole_key() -> None:
    text = (Path(__file__).parents[2] / "src/burnish/data/private/providers.yaml").read_text(encoding="utf-8")
    assert [provider.name for provider in PROVIDERS if provider.positive in text] == []


def test_the_standard_library_and_its_documentation_raise_no_alarm_about_secrets() -> None:
    library = Path(os.__file__).parent
    alarms = [
        f"{path.name}: {item.rule}"
        for path in sorted(library.glob("*.py")) + sorted((library / "email").glob("*.py"))
        for item in find(path.read_text(encoding="utf-8", errors="replace"), frozenset({Kind.SECRET}))
    ]
    assert alarms == []


@pytest.mark.parametrize(
    "begin", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK", "PRIVATE KEY", "EC PRIVATE KEY"]
)
def test_private_keys_are_found_whole_or_cut_short(begin: str) -> None:
    body = "\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\nabcd=\n"
    whole = f"-----BEGIN {begin}-----{body}-----END {begin}-----"
    assert found(f"see {whole} ok!") == [("SECRET", whole)]
    assert found(f"see -----BEGIN {begin}-----{body}")[0][0] == "SECRET"
    assert found(f"a line such as `-----BEGIN {begin}-----` begins it") == []


def test_of_two_kinds_that_overlap_the_first_in_rank_stays() -> None:
    overlapping = [
        Found(Kind.PHONE, 0, 9),
        Found(Kind.EMAIL, 5, 12),
        Found(Kind.PHONE, 20, 25),
        Found(Kind.PHONE, 23, 30),
    ]
    assert resolve(overlapping) == [Found(Kind.EMAIL, 5, 12), Found(Kind.PHONE, 20, 30)]


def test_only_the_kinds_asked_for_are_looked_for() -> None:
    text = "ann@example.com 84.23.10.7 https://example.com/a GPS 40.7128, -74.0060"
    assert [item.kind for item in find(text, frozenset({Kind.IP}))] == [Kind.IP]
    assert [item.kind for item in find(text, STRUCTURED | {Kind.URL})] == [
        Kind.EMAIL,
        Kind.IP,
        Kind.URL,
        Kind.COORDINATES,
    ]
    assert not NAMED & STRUCTURED


def test_every_rule_that_names_a_check_has_it() -> None:
    from importlib import import_module

    for rule in (*STRONG, *LETTERED, *SAID):
        if rule.module:
            assert callable(import_module(f"stdnum.{rule.module}").is_valid)


def test_checksums_by_hand() -> None:
    assert is_base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa")  # the first block's address
    assert is_bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")  # BIP 173's example
    assert is_bech32("BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4")
    assert not is_bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5")
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert mod97("GB82WEST12345698765432")
    assert entropy("aabb") == 1
    assert entropy("abcd") == 2
    assert entropy("aaaa") == 0


pieces = st.sampled_from([value for values in FOUND.values() for value in values]) | st.text(max_size=12)
pieces |= st.text("0123456789+-(). @:abcdefABCDEF[]\\/n\"'°", max_size=25) | st.sampled_from(
    [
        "born on ",
        "ssn ",
        "card ",
        "password: ",
        "call ",
        "lat=",
        "84.23.10.7",
        "::1",
        "-----BEGIN PRIVATE KEY-----",
        "İ",
        "\ud800",
    ]
)
texts = st.lists(pieces, max_size=8).map("".join)


@given(text=texts)
def test_no_text_breaks_the_pass_and_places_are_valid(text: str) -> None:
    items = find(text, STRUCTURED | {Kind.URL})
    assert all(0 <= item.start < item.end <= len(text) for item in items)
    assert all(a.end <= b.start for a, b in itertools.pairwise(items))


@given(text=texts, action=st.sampled_from([placeholder, remove]))
def test_replacing_twice_changes_nothing_more(text: str, action: object) -> None:
    once = replace(text, action).text  # pyright: ignore[reportArgumentType]
    assert replace(once, action).text == once  # pyright: ignore[reportArgumentType]


values = st.recursive(
    texts.map(lambda text: text.replace("\ud800", ""))
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    value=st.lists(values, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=6), values, max_size=3)
)
def test_json_stays_json(value: object) -> None:
    assert type(json.loads(replace(json.dumps(value)).text)) is type(value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "a:" * 100_000, "1.1." * 50_000, "born " * 40_000, "ab-" * 60_000, "40.123, " * 25_000, "card 1" * 30_000, "A1" * 100_000,
        "passport " * 20_000, "ssn 12" * 30_000, "key=" * 50_000, "1 " * 100_000, "::" * 50_000,
        "-----BEGIN PRIVATE KEY-----" * 5_000,
        "lat " * 50_000 + "1.234 " * 20_000, "eyJ" * 60_000, "license number " * 15_000,
    ],
    ids=range(16),
)  # fmt: skip
def test_long_runs_take_no_long_time(text: str) -> None:
    found = find(text, STRUCTURED | {Kind.URL})
    assert all(0 <= item.start < item.end <= len(text) for item in found)


SOME_FINDS = st.lists(
    st.tuples(
        st.sampled_from([Kind.EMAIL, Kind.PHONE, Kind.CARD, Kind.SECRET]), st.integers(0, 60), st.integers(1, 12)
    ),
    max_size=25,
)


@given(some=SOME_FINDS)
def test_finds_are_chosen_as_if_each_were_compared_with_all_others(some: list[tuple[Kind, int, int]]) -> None:
    found = [Found(kind, start, start + size) for kind, start, size in some]
    merged: list[Found] = []
    for item in sorted(found, key=lambda f: (list(Kind).index(f.kind), f.start, -f.end)):
        last = merged[-1] if merged else None
        if last is not None and last.kind == item.kind and item.start < last.end:
            merged[-1] = last._replace(end=max(last.end, item.end))
        else:
            merged.append(item)
    taken: list[Found] = []
    for item in merged:
        if all(item.end <= other.start or other.end <= item.start for other in taken):
            taken.append(item)
    assert resolve(list(found)) == sorted(taken, key=lambda f: f.start)


def test_many_finds_in_one_text_take_no_longer_each() -> None:
    line = "write to ann@shop.org, card 4111 1111 1111 1111, ssn 219-09-9999; password: hunter2!x now\n"
    began = time.process_time()
    assert len(find(line * 4000)) == 16_000
    assert time.process_time() - began < 3, "comparing each find with all others takes ten seconds"

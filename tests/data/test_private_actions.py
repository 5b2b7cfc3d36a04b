"""What is written instead of personal data: placeholders, hashes, surrogates, and tokens of the vault."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from test_personal import FOUND

from burnish.core.errors import DataError
from burnish.data.private.crypto import is_base58check, is_bech32
from burnish.data.private.find import find
from burnish.data.private.kinds import Found, Kind
from burnish.data.private.payments import is_card, luhn, mod97
from burnish.data.private.replace import remove, replace
from burnish.data.private.surrogates import hashed, surrogate
from burnish.data.private.vault import KEY_VARIABLE, Vault, new_key, read_key

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
EVERY = [value for kind, values in FOUND.items() for value in values if kind != "[SECRET]"] + [
    "84.23.10.7", "2001:db8:85a3::8a2e:370:7334", "00:1A:2B:3C:4D:5E", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
    "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "123-45-6789", "GPS 40.7128, -74.0060",
    "born on 12 March 1984", "passport number X1234567", "password: hunter2!", "ghp_" + "a1B2" * 9,
]  # fmt: skip


def only(text: str) -> tuple[Found, str]:
    (item,) = find(text)
    return item, text[item.start : item.end]


@pytest.mark.parametrize("text", EVERY)
def test_a_surrogate_is_another_value_of_the_same_kind_and_shape(text: str) -> None:
    item, value = only(text)
    written = replace(text, surrogate(KEY)).text
    assert value not in written
    if item.kind not in (Kind.SSN,):  # numbers that are never issued are no longer taken for one
        assert only(written)[0].kind == item.kind
    assert replace(text, surrogate(KEY)).text == written != replace(text, surrogate(OTHER)).text


def test_a_value_has_one_surrogate_however_it_is_written() -> None:
    make = surrogate(KEY)
    digits = [
        "".join(filter(str.isdigit, replace(card, make).text))
        for card in ("4111 1111 1111 1111", "4111-1111-1111-1111")
    ]
    assert digits[0] == digits[1]
    assert luhn(digits[0])
    assert digits[0].startswith("411111")
    mails = [replace(mail, make).text for mail in ("ann@Example.com", "ANN@example.com")]
    assert mails[0] == mails[1]
    assert mails[0].endswith("@example.org")
    phones = [replace(phone, make).text for phone in ("+1 212 555 0123", "212-555-0123")]
    assert phones[0][3:].replace(" ", "-") == phones[1]
    assert phones[1][4:10] == "555-01"


def test_surrogates_of_numbers_keep_country_grouping_and_checksum() -> None:
    iban = replace("DE89 3704 0044 0532 0130 00", surrogate(KEY)).text
    assert iban[:2] == "DE"
    assert mod97(iban.replace(" ", ""))
    assert [len(group) for group in iban.split()] == [4, 4, 4, 4, 4, 2]
    phone = replace("+44 20 7946 0958", surrogate(KEY)).text
    assert phone.startswith("+44 ")
    assert [len(group) for group in phone.split()] == [3, 2, 4, 4]
    assert is_card(replace("378282246310005", surrogate(KEY)).text)
    assert replace("84.23.10.7", surrogate(KEY)).text.startswith(("198.18.", "198.19."))
    assert is_base58check(replace("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", surrogate(KEY)).text)
    assert is_bech32(replace("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", surrogate(KEY)).text)


def test_names_share_the_surrogates_of_their_words() -> None:
    make = surrogate(KEY)
    full, last = make(Found(Kind.PERSON, 0, 9), "Ann Smith"), make(Found(Kind.PERSON, 0, 5), "Smith")
    assert full.split()[1] == last != "Smith"
    assert make(Found(Kind.PLACE, 0, 5), "Paris") == make(Found(Kind.PLACE, 9, 14), "PARIS")


def test_a_hash_names_the_kind_and_has_no_digits() -> None:
    once = replace("ann@example.com, 4111111111111111 and ann@example.com", hashed(KEY)).text
    assert once.split(", ")[0] == once.split(" and ")[1]
    assert once.startswith("[EMAIL#")
    assert not any(character.isdigit() for character in once)
    assert replace(once, hashed(KEY)).text == once
    with pytest.raises(ValueError, match="16 random bytes"):
        hashed(b"short")


def test_removing_leaves_nothing() -> None:
    assert replace("write to ann@example.com now", remove).text == "write to  now"


def test_json_stays_json_under_every_action(tmp_path: Path) -> None:
    text = '{"card": 4111111111111111, "mail": "ann@example.com", "list": [2125550123]}'
    for action in (surrogate(KEY), hashed(KEY), remove, Vault(tmp_path / "vault", KEY)):
        assert set(json.loads(replace(text, action).text)) == {"card", "mail", "list"}


def test_the_vault_gives_every_text_back_to_the_letter(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.jsonl", KEY)
    texts = [f"before {value} after" for value in EVERY]
    hidden = [replace(text, vault).text for text in texts]
    assert [vault.reveal(text) for text in hidden] == texts
    again = Vault(tmp_path / "vault.jsonl", KEY)
    assert [again.reveal(text) for text in hidden] == texts
    assert again.reveal("[EMAIL#aaaaaaaaaaaaaaaaaaaaaaaa]") == "[EMAIL#aaaaaaaaaaaaaaaaaaaaaaaa]"


def test_the_vault_file_is_its_owners_and_shows_no_value(tmp_path: Path) -> None:
    path = tmp_path / "vault.jsonl"
    vault = Vault(path, KEY)
    replace("ann@example.com 4111111111111111 ann@example.com", vault)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(vault) == len(path.read_text().splitlines()) == 2
    assert "ann" not in path.read_text()
    assert "4111" not in path.read_text()


def test_two_processes_write_the_same_tokens_and_their_files_join(tmp_path: Path) -> None:
    one, two = Vault(tmp_path / "one", KEY), Vault(tmp_path / "two", KEY)
    assert replace("ann@example.com", one).text == replace("ann@example.com", two).text
    hidden = replace("bob@example.com", two).text
    (tmp_path / "both").write_bytes((tmp_path / "one").read_bytes() + (tmp_path / "two").read_bytes())
    assert Vault(tmp_path / "both", KEY).reveal(hidden) == "bob@example.com"


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    replace("ann@example.com", Vault(path, KEY))
    with pytest.raises(DataError, match="does not open the vault"):
        Vault(path, OTHER)
    path.write_text("no json\n")
    with pytest.raises(DataError, match="damaged"):
        Vault(path, KEY)


def test_the_key_comes_from_a_private_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "key"
    new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_key(path)) == 32
    with pytest.raises(FileExistsError):
        new_key(path)
    assert read_key(None, {KEY_VARIABLE: path.read_text()}) == read_key(path)
    path.chmod(0o644)
    with pytest.raises(DataError, match="mode 0644"):
        read_key(path)
    with pytest.raises(DataError, match="is not set"):
        read_key(None, {})
    with pytest.raises(DataError, match="32 bytes in base64") as raised:
        read_key(None, {KEY_VARIABLE: "c2VjcmV0"})
    assert "c2VjcmV0" not in str(raised.value)
    with pytest.raises(DataError, match="does not exist"):
        read_key(tmp_path / "none")

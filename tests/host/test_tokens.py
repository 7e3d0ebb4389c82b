import pytest
from hypothesis import given
from hypothesis import strategies as st

from celosia.host.tokens import ByteTokenizer, tokenizer_of


@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    show = tokenizer.stream()
    assert "".join(show(token) for token in tokenizer.encode(text)) == text


def test_unknown_tokenizer():
    with pytest.raises(ValueError, match="^The image's tokenizer must be 'bytes', not 'words'$"):
        tokenizer_of({"tokenizer": "words"})

"""Views: nested, by source, by quota; what they need to be served."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.views import (
    DocumentTable,
    check_view_serves,
    hash_fraction,
    members,
    needed_hits,
    quota_tokens,
    shortfall_probability,
    view_facts,
)


def table(
    seed: int = 0, count: int = 400, sources: tuple[str, ...] = ("code", "docs", "prose"), longest: int = 900
) -> DocumentTable:
    """A table of random documents; "docs" is a smaller source."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(64, longest, size=count)
    chunks = -(-tokens // 64)
    shares = np.array([0.5, 0.2, 0.3])[: len(sources)]
    return DocumentTable(
        document=np.arange(count) * 2,
        document_id=[f"package/{seed}/{i}.py#code" for i in range(count)],
        source=np.array(rng.choice(sources, size=count, p=shares / shares.sum()), object),
        split=np.array(rng.choice(["train", "held"], size=count), object),
        first_of_group=np.arange(count) // 2 * 4,
        first_chunk=np.cumsum(chunks) - chunks,
        chunks=chunks,
        tokens=tokens,
    )


def test_the_hash_is_pinned():
    # The first 53 bits of BLAKE2b("0\0a", 8 bytes): a change would silently redraw every view that was ever reported.
    assert hash_fraction(0, "a") == 0.08533998760926986
    assert hash_fraction(0, "a") != hash_fraction(1, "a")


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), replicate=st.integers(0, 1000), small=st.floats(0.01, 1), large=st.floats(0.01, 1))
def test_fractions_are_nested_and_a_function_of_the_document_alone(seed, replicate, small, large):
    small, large = sorted((small, large))
    documents = table(seed, count=60)
    inner, outer = (members(ViewConfig(fraction=f), documents, replicate) for f in (small, large))
    assert not (inner & ~outer).any()
    # Dropping other documents changes nothing for those that stay.
    keep = np.arange(60) % 3 > 0
    fields = {
        name: getattr(documents, name)[keep]
        for name in ("document", "source", "split", "first_of_group", "first_chunk", "chunks", "tokens")
    }
    part = DocumentTable(
        document_id=[name for name, kept in zip(documents.document_id, keep, strict=True) if kept], **fields
    )
    np.testing.assert_array_equal(members(ViewConfig(fraction=small), part, replicate), inner[keep])


def test_replicates_draw_different_halves_of_the_right_size():
    documents = table(count=4000)
    first, second = (members(ViewConfig(fraction=0.5), documents, seed) for seed in (0, 1))
    assert abs(first.mean() - 0.5) < 0.03  # 3.8 standard errors
    assert abs((first & second).mean() - 0.25) < 0.03
    assert members(ViewConfig(fraction=1.0), documents, 0).all()
    assert members(ViewConfig(), documents, 0).all()


def test_sources_and_splits_select():
    documents = table()
    inside = members(ViewConfig(sources=("code", "docs"), splits=("train",)), documents, 0)
    np.testing.assert_array_equal(inside, (documents.source != "prose") & (documents.split == "train"))
    half = members(ViewConfig(sources=("code",), fraction=0.5), documents, 7)
    np.testing.assert_array_equal(half, members(ViewConfig(fraction=0.5), documents, 7) & (documents.source == "code"))


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no document of the datastore has the source 'cod'") as error:
        members(ViewConfig(sources=("cod",)), table(), 0)
    assert error.value.hint == "its sources are: code, docs, prose"
    with pytest.raises(ConfigError, match="source 'x'"):
        members(ViewConfig(match_sources=("code", "x")), table(), 0)


@pytest.mark.parametrize("seed", range(5))
def test_composition_arms_and_their_mixed_partner_hold_the_same_tokens(seed):
    documents = table(seed, count=1500)
    asked = ("code", "docs", "prose")
    smallest = int(documents.tokens[documents.source == "docs"].sum())
    arms = [ViewConfig(sources=(label,), match_sources=asked) for label in asked]
    mixed = ViewConfig(match_sources=asked)
    for view in (*arms, mixed):
        facts = check_view_serves(view, members(view, documents, seed), documents, k=2, min_chunks=100)
        assert facts.quota_tokens == int(0.95 * smallest)
        assert abs(facts.tokens - facts.quota_tokens) <= 0.01 * facts.quota_tokens
        assert facts.realised_fraction == pytest.approx(facts.tokens / documents.tokens.sum())
    facts = view_facts(mixed, members(mixed, documents, seed), documents)
    for label in asked:
        natural = documents.tokens[documents.source == label].sum() / documents.tokens.sum()
        assert facts.tokens_by_source[label] / facts.tokens == pytest.approx(natural, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_most_of_a_source_of_few_large_documents_still_meets_its_quota(seed):
    """60 documents of up to 12,000 tokens: taking whole ones up to 95 % would stop some 2 % short."""
    documents = table(seed, count=60, longest=12_000, sources=("prose",))
    view = ViewConfig(match_sources=("prose",))
    facts = view_facts(view, members(view, documents, seed), documents)
    assert abs(facts.tokens - facts.quota_tokens) <= 0.01 * facts.quota_tokens


def test_a_quota_takes_documents_in_hash_order():
    documents = table(count=50, longest=66)  # nearly equal documents: no one is passed over before the end
    inside = members(ViewConfig(tokens=1300), documents, 3)
    order = np.argsort([hash_fraction(3, name) for name in documents.document_id])
    for label in set(documents.source):
        of_label = [i for i in order if documents.source[i] == label]
        chosen = inside[of_label]
        assert not (np.diff(chosen.astype(int)) > 0).any()  # True, ..., True, False, ..., False


def test_a_quota_that_cannot_be_filled_or_is_missed_is_refused():
    documents = table(count=40)
    with pytest.raises(MismatchError, match="asks for 999,999 tokens, the documents that may be in it hold"):
        members(ViewConfig(tokens=999_999), documents, 0)
    view = ViewConfig(tokens=100)
    with pytest.raises(MismatchError, match="should hold 100 tokens within 1 %"):
        check_view_serves(view, members(view, documents, 0), documents, k=2, min_chunks=0)
    with pytest.raises(ValueError, match="both set a quota"):
        ViewConfig(tokens=1, match_sources=("code",))
    assert quota_tokens(ViewConfig(fraction=0.5), documents) is None


def test_the_hits_needed_are_those_of_the_binomial_formula():
    # spec of the lab: K so that fewer than k survivors has probability < 1e-6
    assert [needed_hits(1 / 2**i, 2) for i in (1, 2, 3, 4, 6)] == [25, 59, 126, 260, 1061]
    assert [needed_hits(1 / 2**i, 10) for i in (1, 2, 3, 4, 6)] == [53, 119, 250, 512, 2082]
    assert needed_hits(1.0, 3) == 3
    assert shortfall_probability(3, 0.5, 2) == pytest.approx(4 / 8)  # 0 or 1 of 3
    assert shortfall_probability(1, 1.0, 2) == 1


def test_a_view_too_small_to_mean_anything_is_infeasible_unless_overridden():
    documents = table(count=400)
    view = ViewConfig(fraction=1 / 8)
    inside = members(view, documents, 0)
    chunks = int(documents.chunks[inside].sum())
    with pytest.raises(MismatchError, match=rf"holds {chunks} chunks .*k=2 neighbours need at least 1,000"):
        check_view_serves(view, inside, documents, k=2)
    with pytest.raises(MismatchError, match="k=40 neighbours need at least 2,000"):
        check_view_serves(view, inside, documents, k=40)
    assert check_view_serves(view, inside, documents, k=2, min_chunks=10).chunks == chunks
    with pytest.raises(MismatchError, match="the view holds 0 chunks"):
        check_view_serves(view, np.zeros(400, bool), documents, k=2, min_chunks=0)


def test_a_table_with_too_few_hits_is_refused_before_anything_runs():
    documents = table(count=400)
    view = ViewConfig(fraction=1 / 8)
    inside = members(view, documents, 0)
    assert check_view_serves(view, inside, documents, k=2, table_K=126, min_chunks=10)
    with pytest.raises(MismatchError, match=r"K=20 hits a query; .* k=2 needs K=1[0-9][0-9]") as error:
        check_view_serves(view, inside, documents, k=2, table_K=20, min_chunks=10)
    assert "with K: 1" in error.value.hint

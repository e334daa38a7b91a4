"""Documents to lemmas, and lemmas to counts, as in the paper's spam experiment (needs spaCy)."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import spacy
from sklearn.feature_extraction.text import CountVectorizer
from spacy.attrs import ORTH
from spacy.lookups import load_lookups
from spacy.tokens import Doc
from tqdm import tqdm

from influence.data.files import write_atomically


def clean_documents(documents, cache_folder=None, progress: bool = False) -> list[str]:
    """Each document as its lemmas, joined by spaces.

    Kept are tokens that are alphabetic, no stop words, and in the vocabulary: in the table of
    lexeme probabilities of ``spacy-lookups-data`` (spaCy 3's own ``is_oov`` means "has no vector").
    Lemmas are those of its look-up table; no model is downloaded.

    Args:
        documents: texts.
        cache_folder: where the result is kept, named by the texts and spaCy's versions.
        progress: show a progress bar.
    """
    documents = list(documents)
    path = None if cache_folder is None else Path(cache_folder) / f"{_key(documents)}.json"
    if path is not None and path.exists():
        return json.loads(path.read_text())
    language = spacy.blank("en")
    language.max_length = max([language.max_length, *map(len, documents)])
    tokens = [
        language.make_doc(document).to_array(ORTH)
        for document in tqdm(documents, desc="lemmas", disable=None if progress else True)
    ]
    # None of this looks at a token's neighbours: once for each word is enough.
    lemmas = _lemmas(language, np.unique(np.concatenate(tokens)) if tokens else [])
    cleaned = [
        " ".join(lemmas[token] for token in document if token in lemmas)
        for document in map(np.ndarray.tolist, tokens)
    ]
    if path is not None:
        write_atomically(path, lambda file: file.write(json.dumps(cleaned).encode()))
    return cleaned


def _lemmas(language, words) -> dict[int, str]:
    """The lemmas of those words (spaCy's numbers for them) that are kept."""
    known = load_lookups("en", ["lexeme_prob"]).get_table("lexeme_prob")
    language.add_pipe("lemmatizer", config={"mode": "lookup"})
    language.initialize()
    texts = [language.vocab.strings[word] for word in words]
    return {
        token.orth: token.lemma_
        for token in language(Doc(language.vocab, texts))
        if token.is_alpha and not token.is_stop and token.text in known
    }


def count_words(train: list[str], test: list[str], min_df: int = 5):
    """Bags of words [n, d] and [m, d], sparse, of the words in ``min_df`` training documents."""
    vectorizer = CountVectorizer(min_df=min_df)
    return vectorizer.fit_transform(train), vectorizer.transform(test)


def _key(documents) -> str:
    digest = hashlib.sha256(repr((version("spacy"), version("spacy-lookups-data"))).encode())
    for document in documents:
        digest.update(hashlib.sha256(document.encode()).digest())
    return digest.hexdigest()[:32]

"""Documents to lemmas, and lemmas to counts, as in the paper's spam experiment (needs spaCy)."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import spacy
from sklearn.feature_extraction.text import CountVectorizer
from spacy.lookups import load_lookups
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
    known = load_lookups("en", ["lexeme_prob"]).get_table("lexeme_prob")
    language = spacy.blank("en")
    language.add_pipe("lemmatizer", config={"mode": "lookup"})
    language.initialize()
    language.max_length = max([language.max_length, *map(len, documents)])
    cleaned = [
        " ".join(
            token.lemma_
            for token in document
            if token.is_alpha and not token.is_stop and token.text in known
        )
        for document in tqdm(
            language.pipe(documents),
            total=len(documents),
            desc="lemmas",
            disable=None if progress else True,
        )
    ]
    if path is not None:
        write_atomically(path, lambda file: file.write(json.dumps(cleaned).encode()))
    return cleaned


def count_words(train: list[str], test: list[str], min_df: int = 5):
    """Bags of words [n, d] and [m, d], sparse, of the words in ``min_df`` training documents."""
    vectorizer = CountVectorizer(min_df=min_df)
    return vectorizer.fit_transform(train), vectorizer.transform(test)


def _key(documents) -> str:
    digest = hashlib.sha256(repr((version("spacy"), version("spacy-lookups-data"))).encode())
    for document in documents:
        digest.update(hashlib.sha256(document.encode()).digest())
    return digest.hexdigest()[:32]

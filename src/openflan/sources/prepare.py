"""Named steps that turn a hub dataset's rows into a task's rows where a column expression cannot.

A task file names its steps: `prepare = ["explode_quac"]`. A step takes raw rows and gives rows: the same ones changed,
several for one, or, for a row it refuses, that row with the key "_dropped" naming the reason, so that the reader can
count it. A step never swallows a row and never changes the row it was given. Read next: `read.py`.
"""

import ast
import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

Row = dict[str, Any]
Step = Callable[[Iterable[Row]], Iterator[Row]]

NO_ANSWER = "not answerable"
"""What a question that its text does not answer has for an answer; QuAC's own marker is no phrase of English."""

_MEDIA = re.compile(
    r"<(?:file_|fi{2}e_|photo_|link_)?(photo|picture|gif|video|link|location|others?|file)(?:_file)?>", re.I
)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_ENTITY = re.compile(r"(?<![&\w])#(\d{2,5});")
_NOT_WORD = re.compile(r"[^\w\s]")
_HEADER = re.compile(r"\s*\[[a-z_ ]+\]\s*")
_DATELINE = re.compile(
    r"^\W{0,2}(?:[^.\n]{0,60}?\((?:CNN[^)]{0,30}|Reuters|AP)\)\s*(?:--|—|–)|\((?:CNN[^)]{0,30}|Reuters|AP)\)"
    r"|\([^)]{2,40}\)\s*--|By \. [^.]{3,60} \.)\s*",
    re.I,
)
_STAMP = re.compile(
    r"^(?:By [\w .'-]{3,60}?(?=\s(?:PUBLISHED:[ .]*\d|Last updated at \d)))?"
    r"(?:(?:PUBLISHED|UPDATED):[ .]*\d{1,2}:\d\d [A-Z]{3,4}, \d{1,2} \w+ \d{4}"
    r"|Last updated at \d{1,2}:\d\d [AP]M on \d{1,2}\w\w \w+ \d{4}|[ .|])*",
    re.I,
)
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def keep_four_choices(rows: Iterable[Row]) -> Iterator[Row]:
    """ARC: only questions with four choices, as the paper has it (the few with three or five are dropped)."""
    for row in rows:
        count = len(row["choices"]["text"])
        yield row if count == 4 else _dropped(row, f"{count} choices instead of four")


def keep_labelled(rows: Iterable[Row]) -> Iterator[Row]:
    """SNLI: only rows on whose label the annotators agreed; the others have label -1."""
    for row in rows:
        yield row if row["label"] >= 0 else _dropped(row, "no gold label")


def keep_polar_tweets(rows: Iterable[Row]) -> Iterator[Row]:
    """Sentiment140: only negative (0) and positive (4) tweets; the test split also holds neutral ones (2)."""
    for row in rows:
        yield row if str(row["sentiment"]) in ("0", "4") else _dropped(row, "neither negative nor positive")


def repair_ag_news(rows: Iterable[Row]) -> Iterator[Row]:
    """AG News: `text` with its broken HTML entities, backslashes for line breaks and left-over tags put right.

    >>> next(repair_ag_news([{"text": r"Lord #39;s wins\\again &lt;b&gt;today&lt;/b&gt;"}]))["text"]
    "Lord's wins again today"
    """
    for row in rows:
        # Entities lost their ampersand; apostrophes and closing quotes also gained a space before them.
        text = re.sub(r"\s?#(39|146);(?=\w)", r"&#\1;", row["text"])
        text = re.sub(r"\bquot;", '"', re.sub(r"\s?\bquot;(?=[\s.,;:!?)]|$)", '"', text))
        text = re.sub(r"(?<!&)\b(amp|lt|gt);(?!\w)", r"&\1;", text)
        text = html.unescape(_ENTITY.sub(r"&#\1;", text))
        text = re.sub(r"\s?\bamp;(?=\w)", "&", text)
        yield row | {"text": " ".join(_TAG.sub(" ", text).replace("\\", " ").split())}


def name_media(rows: Iterable[Row]) -> Iterator[Row]:
    """SAMSum: `dialogue` with "[photo]" and the like for media tags such as "<file_photo>", and plain line breaks."""
    for row in rows:
        if not row["dialogue"]:
            yield _dropped(row, "no dialogue")
            continue
        text = row["dialogue"].replace("\r\n", "\n").replace("\r", "\n")
        yield row | {"dialogue": _MEDIA.sub(_medium, text)}


def _medium(tag: re.Match[str]) -> str:
    return f"[{tag[1].lower().removesuffix('s').replace('other', 'file')}]"


def break_html_lines(rows: Iterable[Row]) -> Iterator[Row]:
    """IMDB: `text` with its HTML line breaks as line breaks, two of them as an empty line.

    >>> next(break_html_lines([{"text": "Dull.<br />Very dull."}]))["text"].splitlines()
    ['Dull.', 'Very dull.']
    """
    for row in rows:
        yield row | {"text": row["text"].replace("<br />", "\n").strip()}


def unescape_review(rows: Iterable[Row]) -> Iterator[Row]:
    r"""Yelp: `text` with its literal escapes as the characters they stand for.

    >>> next(unescape_review([{"text": r'A \""real\"" caf\u00e9.\n'}]))["text"]
    'A "real" café.'
    >>> next(unescape_review([{"text": r"Yum \ud83d\ude00"}]))["text"]
    'Yum 😀'
    """
    for row in rows:
        text = row["text"].replace("\\n", "\n").replace('\\""', '"').replace('\\"', '"')
        text = _UNICODE_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
        # Characters beyond the first 65,536 are written as two escapes.
        yield row | {"text": text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass").strip()}


def drop_masked_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Gigaword: only rows whose `document` and `summary` are whole; UNK stands for a rare word, # for a digit.

    >>> next(drop_masked_rows([{"document": "shares fell #.# percent", "summary": "shares fall"}]))["_dropped"]
    'a word or a number is masked'
    """
    for row in rows:
        masked = any(mark in f"{row['document']} {row['summary']}" for mark in ("UNK", "<unk>", "#"))
        yield _dropped(row, "a word or a number is masked") if masked else row


def keep_distinct_choices(rows: Iterable[Row]) -> Iterator[Row]:
    """OpenBookQA: only questions whose choices differ; a few training rows name one twice."""
    for row in rows:
        texts = row["choices"]["text"]
        yield row if len(set(texts)) == len(texts) else _dropped(row, "a choice is named twice")


def unwrap_bytes(rows: Iterable[Row]) -> Iterator[Row]:
    """Mathematics dataset: `question` and `answer` out of the printed bytes literal that the hub stores.

    >>> next(unwrap_bytes([{"question": r"b'Solve 3*x = 6.\\n'", "answer": r"b'2\\n'"}]))
    {'question': 'Solve 3*x = 6.', 'answer': '2'}
    """
    for row in rows:
        yield row | {key: _plain(row[key]) for key in ("question", "answer")}


def explode_quac(rows: Iterable[Row]) -> Iterator[Row]:
    """QuAC: a dialogue becomes one row per question.

    Comes in: `questions`, `answers.texts` (a list of references per question), `orig_answers.texts`, `context`.
    Goes out: `question`, `references` (the teacher's own answer first), `history` ("Q: …" and "A: …" lines, empty for
    the first question) and `context` without the CANNOTANSWER marker, which NO_ANSWER replaces in answers.
    """
    for row in rows:
        own = [_answerable(text) for text in row["orig_answers"]["texts"]]
        context = row["context"].removesuffix("CANNOTANSWER").strip()
        for turn, question in enumerate(row["questions"]):
            others = [_answerable(text) for text in row["answers"]["texts"][turn]]
            yield row | {
                "question": question.strip(),
                "references": list(dict.fromkeys([own[turn], *others])),
                "history": _history(row["questions"][:turn], own),
                "context": context,
            }


def explode_coqa(rows: Iterable[Row]) -> Iterator[Row]:
    """CoQA: a conversation becomes one row per question.

    Comes in: `story`, `questions`, `answers.input_text`. Goes out: also `question`, `answer` and `history` ("Q: …" and
    "A: …" lines, empty for the first question).
    """
    for row in rows:
        answers = [text.strip() for text in row["answers"]["input_text"]]
        for turn, question in enumerate(row["questions"]):
            told = _history(row["questions"][:turn], answers)
            yield row | {"question": question.strip(), "answer": answers[turn], "history": told}


def gather_drop_answers(rows: Iterable[Row]) -> Iterator[Row]:
    """DROP: adds `references` made of `answers_spans`; the parts of one answer are joined with commas.

    In training rows the hub's spans are the parts of one answer, in validation rows the answers of several people laid
    end to end. So numbers, dates, spans that contain one another and spans that not everybody gave are taken for
    references of their own.

    >>> spans = {"spans": ["red", "blue", "red", "blue"], "types": ["span"] * 4}
    >>> next(gather_drop_answers([{"answers_spans": spans}]))["references"]
    ['red, blue']
    """
    for row in rows:
        answers = row["answers_spans"]
        spans = [text.strip() for text in answers["spans"] if text.strip()]
        changed = row | {"references": _drop_references(spans, set(answers["types"]))}
        yield changed if spans else _dropped(changed, "no answer")


def index_record_answers(rows: Iterable[Row]) -> Iterator[Row]:
    """ReCoRD: distinct `entities`, and `gold`, the indices of the right ones; rows whose answer is no entity drop."""
    for row in rows:
        entities = list(dict.fromkeys(row["entities"]))
        gold = [entities.index(answer) for answer in dict.fromkeys(row["answers"]) if answer in entities]
        changed = row | {"entities": entities, "gold": gold}
        yield changed if gold else _dropped(changed, "no entity is the answer")


def mark_wsc_spans(rows: Iterable[Row]) -> Iterator[Row]:
    """WSC: adds `marked`, the text with asterisks around the pronoun (span 2), found by its word index."""
    for row in rows:
        words = row["text"].split()
        start, span = row["span2_index"], row["span2_text"].split()
        stem = re.escape(" ".join(span))
        piece = " ".join(words[start : start + len(span)])
        marked = re.sub(rf"^(\W*)({stem})(?!\w)", r"\1*\2*", piece, count=1, flags=re.IGNORECASE)
        if marked == piece:
            yield _dropped(row, "the pronoun is not where its index says")
        else:
            yield row | {"marked": " ".join([*words[:start], marked, *words[start + len(span) :]])}


def strip_wikihow_tags(rows: Iterable[Row]) -> Iterator[Row]:
    """HellaSwag: `ctx` and `endings` with full stops for "[header]", "[title]", "[step]" and the like.

    >>> next(strip_wikihow_tags([{"ctx": "[header] How to sow [title] Dig.", "endings": ["[step] Wait."]}]))
    {'ctx': 'How to sow. Dig.', 'endings': ['Wait.']}
    """
    for row in rows:
        yield row | {"ctx": _untagged(row["ctx"]), "endings": [_untagged(ending) for ending in row["endings"]]}


def strip_dateline(rows: Iterable[Row]) -> Iterator[Row]:
    """CNN/DailyMail: `article` without the dateline or agency mark it begins with.

    >>> next(strip_dateline([{"article": "LONDON, England (CNN) -- It rained."}]))["article"]
    'It rained.'
    """
    for row in rows:
        yield row | {"article": _STAMP.sub("", _DATELINE.sub("", row["article"], count=1), count=1).strip()}


def remove_punctuation(rows: Iterable[Row]) -> Iterator[Row]:
    """Fix punctuation: a sentence, and the sentence without what is neither a word character nor white space.

    Comes in: `text`, or `translation.en` as in translation data. Goes out: `text`, the sentence as written, and
    `damaged`. Sentences without punctuation, or of nothing else, drop. So it is with the two steps below.

    >>> next(remove_punctuation([{"text": "No, it's late."}]))["damaged"]
    'No its late'
    """
    return _damaged(rows, lambda text: _NOT_WORD.sub("", text), "no punctuation")


def lower_case(rows: Iterable[Row]) -> Iterator[Row]:
    """True case: a sentence (`text`), and the sentence in lower case (`damaged`); those without a capital drop."""
    return _damaged(rows, str.lower, "no capital letter")


def delete_spaces(rows: Iterable[Row]) -> Iterator[Row]:
    """Word segmentation: a sentence (`text`), and the sentence without spaces (`damaged`); single words drop."""
    return _damaged(rows, lambda text: "".join(text.split()), "no space")


STEPS: Mapping[str, Step] = {
    step.__name__: step
    for step in (
        keep_four_choices,
        keep_labelled,
        keep_polar_tweets,
        repair_ag_news,
        name_media,
        break_html_lines,
        unescape_review,
        drop_masked_rows,
        keep_distinct_choices,
        unwrap_bytes,
        explode_quac,
        explode_coqa,
        gather_drop_answers,
        index_record_answers,
        mark_wsc_spans,
        strip_wikihow_tags,
        strip_dateline,
        remove_punctuation,
        lower_case,
        delete_spaces,
    )
}


def _dropped(row: Row, reason: str) -> Row:
    return row | {"_dropped": reason}


def _damaged(rows: Iterable[Row], damage: Callable[[str], str], nothing: str) -> Iterator[Row]:
    for row in rows:
        text = str(row.get("text") or (row.get("translation") or {}).get("en") or "").strip()
        damaged = damage(text).strip()
        if not text:
            yield _dropped(row, "neither text nor translation.en")
        elif damaged == text:
            yield _dropped(row, f"{nothing} in the sentence")
        else:
            changed = row | {"text": text, "damaged": damaged}
            yield changed if damaged else _dropped(changed, "nothing is left of the sentence")


def _untagged(text: str) -> str:
    """Text with a full stop for each tag that stands between two sentences, and a space for the others."""
    parts = [part for part in _HEADER.split(text.strip()) if part]
    for index, (part, following) in enumerate(pairwise(parts)):
        parts[index] = part + (". " if part[-1] not in ".!?:," and following[0].isupper() else " ")
    return "".join(parts).strip()


def _plain(text: str) -> str:
    if re.fullmatch(r"b(['\"]).*\1", text, re.DOTALL):
        return ast.literal_eval(text).decode("utf-8").strip()
    return text.strip()


def _answerable(text: str) -> str:
    return NO_ANSWER if text.strip() == "CANNOTANSWER" else text.strip()


def _drop_references(spans: Sequence[str], kinds: set[str]) -> list[str]:
    given = Counter(spans)
    parts: list[str] = []
    for span in given:
        words = f" {span.lower()} "
        if not any(words in f" {part.lower()} " or f" {part.lower()} " in words for part in parts):
            parts.append(span)
    by_everybody = len(set(given.values())) == 1
    return [", ".join(parts)] if kinds == {"span"} and len(parts) > 1 and by_everybody else list(given)


def _history(questions: Sequence[str], answers: Sequence[str]) -> str:
    told = zip(questions, answers[: len(questions)], strict=True)
    return "\n".join(f"Q: {question.strip()}\nA: {answer}" for question, answer in told)

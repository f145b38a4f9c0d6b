"""Named steps that turn a hub dataset's rows into a task's rows where a column expression cannot.

A task file names its steps: `prepare = ["explode_quac"]`. A step takes raw rows and gives rows: the same ones changed,
several for one, or, for a row it refuses, that row with the key "_dropped" naming the reason, so that the reader can
count it. A step never swallows a row and never changes the row it was given. Read next: `read.py`.
"""

import ast
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Step = Callable[[Iterable[Row]], Iterator[Row]]

NO_ANSWER = "not answerable"
"""What a question that its text does not answer has for an answer; QuAC's own marker is no phrase of English."""

_MEDIA = re.compile(r"<(?:file_|f[iI]{2}e_|photo_|link_)?(photo|picture|gif|video|link|location|others?|file)>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_ENTITY = re.compile(r"(?<![&\w])#(\d{2,5});")
_HEADER = re.compile(r"\s*\[[a-z_ ]+\]\s*")
_DATELINE = re.compile(
    r"^\W{0,2}(?:[^.\n]{0,60}?\((?:CNN[^)]{0,30}|Reuters|AP)\)\s*(?:--|—|–)?|By \. [^.]{3,60} \.)\s*", re.I
)


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
        yield row if row["sentiment"] in (0, 4) else _dropped(row, "neither negative nor positive")


def repair_ag_news(rows: Iterable[Row]) -> Iterator[Row]:
    """AG News: `text` with its broken HTML entities, backslashes for line breaks and left-over tags put right.

    >>> next(repair_ag_news([{"text": r"Lord #39;s wins\\again &lt;b&gt;today&lt;/b&gt;"}]))["text"]
    "Lord's wins again today"
    """
    for row in rows:
        # Entities lost their ampersand; apostrophes and closing quotes also gained a space before them.
        text = re.sub(r"\s?#(39|146);(?=\w)", r"&#\1;", row["text"])
        text = re.sub(r"\bquot;", '"', re.sub(r"\s?\bquot;(?=\s|$)", '"', text))
        text = html.unescape(_ENTITY.sub(r"&#\1;", text))
        yield row | {"text": " ".join(_TAG.sub(" ", text).replace("\\", " ").split())}


def name_media(rows: Iterable[Row]) -> Iterator[Row]:
    """SAMSum: `dialogue` with "[photo]" and the like for media tags such as "<file_photo>", and plain line breaks."""
    for row in rows:
        text = row["dialogue"].replace("\r\n", "\n").replace("\r", "\n")
        yield row | {"dialogue": _MEDIA.sub(lambda tag: f"[{tag[1].removesuffix('s').replace('other', 'file')}]", text)}


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
    end to end. So numbers, dates, and spans that contain one another are taken for references of their own.

    >>> spans = {"spans": ["red", "blue", "red", "blue"], "types": ["span"] * 4}
    >>> next(gather_drop_answers([{"answers_spans": spans}]))["references"]
    ['red, blue']
    """
    for row in rows:
        answers = row["answers_spans"]
        spans = [text.strip() for text in answers["spans"] if text.strip()]
        changed = row | {"references": _drop_references(list(dict.fromkeys(spans)), set(answers["types"]))}
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
    """HellaSwag: `ctx` and `endings` without "[header]", "[title]", "[step]" and the like."""
    for row in rows:
        ctx = _HEADER.sub(" ", row["ctx"]).strip()
        yield row | {"ctx": ctx, "endings": [_HEADER.sub(" ", ending).strip() for ending in row["endings"]]}


def strip_dateline(rows: Iterable[Row]) -> Iterator[Row]:
    """CNN/DailyMail: `article` without the dateline or agency mark it begins with.

    >>> next(strip_dateline([{"article": "LONDON, England (CNN) -- It rained."}]))["article"]
    'It rained.'
    """
    for row in rows:
        yield row | {"article": _DATELINE.sub("", row["article"], count=1).strip()}


STEPS: Mapping[str, Step] = {
    step.__name__: step
    for step in (
        keep_four_choices,
        keep_labelled,
        keep_polar_tweets,
        repair_ag_news,
        name_media,
        unwrap_bytes,
        explode_quac,
        explode_coqa,
        gather_drop_answers,
        index_record_answers,
        mark_wsc_spans,
        strip_wikihow_tags,
        strip_dateline,
    )
}


def _dropped(row: Row, reason: str) -> Row:
    return row | {"_dropped": reason}


def _plain(text: str) -> str:
    if re.fullmatch(r"b(['\"]).*\1", text, re.DOTALL):
        return ast.literal_eval(text).decode("utf-8").strip()
    return text.strip()


def _answerable(text: str) -> str:
    return NO_ANSWER if text.strip() == "CANNOTANSWER" else text.strip()


def _drop_references(spans: Sequence[str], kinds: set[str]) -> list[str]:
    parts: list[str] = []
    for span in spans:
        if not any(span.lower() in part.lower() or part.lower() in span.lower() for part in parts):
            parts.append(span)
    return [", ".join(parts)] if kinds == {"span"} and len(parts) > 1 else list(spans)


def _history(questions: Sequence[str], answers: Sequence[str]) -> str:
    told = zip(questions, answers[: len(questions)], strict=True)
    return "\n".join(f"Q: {question.strip()}\nA: {answer}" for question, answer in told)

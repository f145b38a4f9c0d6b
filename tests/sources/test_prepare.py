"""Prepare steps: what they change, what they refuse, and that they leave the rows they were given alone."""

import copy
from typing import Any

import pytest

from openflan.sources.prepare import NO_ANSWER, STEPS, Row


def run(step: str, *rows: Row) -> list[Row]:
    """The rows a step gives, after checking that it did not touch the ones it got."""
    before = copy.deepcopy(rows)
    done = list(STEPS[step](rows))
    assert rows == before
    return done


def quac_row() -> Row:
    return {
        "context": "The mill stood by the river. It burned down in 1850. CANNOTANSWER",
        "questions": ["Where was the mill?", "What happened to it?", " Who owned it?"],
        "answers": {"texts": [["by the river", "river"], ["burned down"], ["CANNOTANSWER"]]},
        "orig_answers": {"texts": ["by the river", "It burned down in 1850.", "CANNOTANSWER"]},
    }


def test_only_questions_with_four_choices_stay_and_the_others_say_why() -> None:
    four, three = {"choices": {"text": list("wxyz")}}, {"choices": {"text": list("xyz")}}
    assert run("keep_four_choices", four, three) == [four, three | {"_dropped": "3 choices instead of four"}]


def test_rows_without_gold_label_are_marked_not_swallowed() -> None:
    kept, dropped = run("keep_labelled", {"label": 0}, {"label": -1})
    assert kept == {"label": 0}
    assert dropped["_dropped"] == "no gold label"


def test_neutral_tweets_are_not_taken_for_negative_ones() -> None:
    negative, neutral, positive = run("keep_polar_tweets", *({"sentiment": grade} for grade in (0, 2, 4)))
    assert ("_dropped" in negative, "_dropped" in neutral, "_dropped" in positive) == (False, True, False)


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("The club #39;s coach", "The club's coach"),
        ("worth  #36;5 million", "worth $5 million"),
        (r"one line\another", "one line another"),
        ('&lt;A HREF="http://example.org"&gt;ABC.N&lt;/A&gt; fell', "ABC.N fell"),
        ("she said  quot;yes, quot; and left", 'she said "yes," and left'),
        ("Nets beat Knicks #151; again", "Nets beat Knicks — again"),
        ("the #1 team", "the #1 team"),
    ],
)
def test_ag_news_text_is_put_right(broken: str, whole: str) -> None:
    assert run("repair_ag_news", {"text": broken}) == [{"text": whole}]


def test_media_tags_get_words_and_hearts_stay() -> None:
    (row,) = run("name_media", {"dialogue": "Ann: <file_photo>\r\nBob: <3\r\nAnn: <file_others> <lol>"})
    assert row["dialogue"] == "Ann: [photo]\nBob: <3\nAnn: [file] <lol>"


def test_bytes_literals_are_unwrapped_and_plain_text_is_kept() -> None:
    wrapped = {"question": "b'What is 3 + 4?\\n'", "answer": "b'7\\n'"}
    assert run("unwrap_bytes", wrapped) == run("unwrap_bytes", {"question": "What is 3 + 4?", "answer": "7"})


def test_quac_has_one_row_per_question_with_what_was_said_before() -> None:
    first, second, third = run("explode_quac", quac_row())
    assert first["history"] == ""
    told = ["Q: Where was the mill?", "A: by the river", "Q: What happened to it?", "A: It burned down in 1850."]
    assert third["history"].split("\n") == told
    assert second["references"] == ["It burned down in 1850.", "burned down"]
    assert third["question"] == "Who owned it?"


def test_quac_marker_for_no_answer_is_gone_from_context_and_answers() -> None:
    rows = run("explode_quac", quac_row())
    assert rows[2]["references"] == [NO_ANSWER]
    assert not any("CANNOTANSWER" in row["context"] + row["history"] for row in rows)


def test_coqa_has_one_row_per_question_and_never_shows_its_own_answer() -> None:
    talk: dict[str, Any] = {
        "story": "Mia fed the hen.",
        "questions": ["Who was fed?", "By whom?"],
        "answers": {"input_text": ["the hen", " Mia "]},
    }
    first, second = run("explode_coqa", talk)
    assert (first["answer"], first["history"]) == ("the hen", "")
    assert (second["answer"], second["history"]) == ("Mia", "Q: Who was fed?\nA: the hen")


@pytest.mark.parametrize(
    ("spans", "kinds", "references"),
    [
        (["7"], ["number"], ["7"]),
        (["7", "8"], ["number", "number"], ["7", "8"]),
        (["Ann", "Bo"], ["span", "span"], ["Ann, Bo"]),
        (["Ann", "Bo", "Ann", "Bo"], ["span"] * 4, ["Ann, Bo"]),
        (["the old mill", "old mill"], ["span", "span"], ["the old mill", "old mill"]),
        (["three", "3"], ["span", "number"], ["three", "3"]),
    ],
)
def test_drop_parts_are_joined_and_readings_of_several_people_are_not(
    spans: list[str], kinds: list[str], references: list[str]
) -> None:
    (row,) = run("gather_drop_answers", {"answers_spans": {"spans": spans, "types": kinds}})
    assert row["references"] == references


def test_record_answers_become_indices_of_distinct_entities() -> None:
    row = {"entities": ["Oslo", "Bergen", "Oslo", "Tromsø"], "answers": ["Tromsø", "Oslo", "Oslo"]}
    (done,) = run("index_record_answers", row)
    assert done["entities"] == ["Oslo", "Bergen", "Tromsø"]
    assert done["gold"] == [2, 0]
    (refused,) = run("index_record_answers", {"entities": ["Oslo"], "answers": ["Rome"]})
    assert "_dropped" in refused


def test_wsc_pronoun_is_marked_where_its_index_says() -> None:
    row = {"text": "Tom told Jim that he had lost; he, too, wept.", "span2_index": 7, "span2_text": "he"}
    (done,) = run("mark_wsc_spans", row)
    assert done["marked"] == "Tom told Jim that he had lost; *he*, too, wept."


def test_wsc_row_whose_index_is_wrong_is_refused() -> None:
    (refused,) = run("mark_wsc_spans", {"text": "Tom told Jim that he won.", "span2_index": 1, "span2_text": "he"})
    assert "_dropped" in refused


def test_wikihow_tags_go_from_context_and_endings() -> None:
    row = {"ctx": "[header] How to sow [title] Dig. [step] Take a spade.", "endings": ["Turn [substeps] the soil."]}
    (done,) = run("strip_wikihow_tags", row)
    assert done == {"ctx": "How to sow. Dig. Take a spade.", "endings": ["Turn the soil."]}


@pytest.mark.parametrize(
    "article",
    ["LONDON, England (CNN) -- It rained.", "(CNN)It rained.", "(CNN) -- It rained.", "It rained."],
)
def test_only_the_dateline_goes(article: str) -> None:
    assert run("strip_dateline", {"article": article}) == [{"article": "It rained."}]


@pytest.mark.parametrize(
    ("step", "text", "damaged"),
    [
        ("remove_punctuation", "Well, well: Zoë's 3.5 kg (net)!", "Well well Zoës 35 kg net"),
        ("remove_punctuation", "- Yes - and no.", "Yes  and no"),
        ("lower_case", "Ring Dr. Østergård in ÅRHUS.", "ring dr. østergård in århus."),
        ("delete_spaces", " Two  words\u00a0more. ", "Twowordsmore."),
    ],
)
def test_a_sentence_is_damaged_and_kept_whole_beside_it(step: str, text: str, damaged: str) -> None:
    whole = text.strip()
    assert run(step, {"text": text}) == [{"text": whole, "damaged": damaged}]
    pair = {"translation": {"en": text, "da": "…"}}
    assert run(step, pair) == [pair | {"text": whole, "damaged": damaged}]


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        ("remove_punctuation", "no stop here", "no punctuation in the sentence"),
        ("remove_punctuation", "***", "nothing is left of the sentence"),
        ("lower_case", "all small, 100 %.", "no capital letter in the sentence"),
        ("delete_spaces", "Imprint", "no space in the sentence"),
        ("delete_spaces", None, "neither text nor translation.en"),
        ("lower_case", "  ", "neither text nor translation.en"),
    ],
)
def test_a_sentence_with_nothing_to_restore_is_marked_not_swallowed(step: str, text: str | None, reason: str) -> None:
    assert [row["_dropped"] for row in run(step, {"text": text})] == [reason]


def test_every_step_says_what_it_does() -> None:
    assert all(step.__doc__ and step.__name__ == name for name, step in STEPS.items())

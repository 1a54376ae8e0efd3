import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.questions import Question, Remembered, chosen_letter, question_text, refine, with_choices


def test_scorers_read_the_refined_question_first_then_stem_and_options_then_the_prompt():
    whole = {"prompt": "Prompt.", "stem": "Who?", "options": ("A man", "A dog"), "refined": "Short?"}
    assert question_text(Question(**whole)) == "Short?"
    assert question_text(Question(**{**whole, "refined": ""})) == "Who? Choices: A man, A dog."
    assert question_text(Question(**{**whole, "refined": "", "options": ()})) == "Who?"
    assert question_text(Question("Prompt.")) == "Prompt."


def test_a_question_without_text_is_refused_by_name():
    with pytest.raises(ValueError, match=r"question 'task:7' has no text .* scorer=uniform"):
        question_text(Question(" \n", doc_key="task:7"))


def test_the_papers_own_example_loses_letters_position_and_articles():
    stem = "what did the baby do after throwing the green cup away while on the floor near the end"
    options = ["A. clap proudly", "B. the lady sitting down", "C. lay on floor", "D. just picked it up", "E. crawl"]
    assert refine(stem, options) == (
        "What did the baby do after throwing the green cup away while on the floor "
        "Choices: clap proudly, lady sitting down, lay on floor, just picked it up, crawl."
    )


@pytest.mark.parametrize(
    ("stem", "short"),
    [
        ("Question: Who sings?\nAnswer with the option's letter from the given choices directly.", "Who sings?"),
        ("Select the best answer to the following question based on the video. Who sings?", "Who sings?"),
        ("According to the video, who sings?", "Who sings?"),
        ("In the video, what color is the star?", "What color is the star?"),
        ("What happens at the end of the video?", "What happens?"),
        ("Who sings? Respond with only the letter (A, B, C or D) of the correct option.", "Who sings?"),
        ("Which place is shown first?", "Which place is shown first?"),
        ("Please describe it.", "Please describe it."),
        ("In which quarter of the video does the star appear?", "In which quarter does the star appear?"),
        (
            "Can you choose the letter that the man only wrote once?",
            "Can you choose the letter that the man only wrote once?",
        ),
    ],
)
def test_instructions_labels_and_hints_at_the_position_go(stem, short):
    assert refine(stem) == short


@pytest.mark.parametrize(
    ("option", "bare"),
    [("A. A red cup.", "red cup"), ("(b) to sing", "sing"), ("C) the", "the"), ("A", "A"), ("red;", "red"), ("", "")],
)
def test_options_lose_letter_article_and_full_stop(option, bare):
    assert refine("Who?", [option, "x"]) == f"Who? Choices: {bare}, x."


def test_long_options_are_cut_alike_and_the_stem_never():
    stem = "What does the man do?"
    options = ["one two three four five six", "seven eight", "nine ten eleven twelve"]
    assert refine(stem, options, 14) == "What does the man do? Choices: one two three, seven eight, nine ten eleven."
    assert refine(stem, options, 1) == "What does the man do? Choices: one, seven, nine."


def test_as_many_words_stay_as_are_allowed():
    options = ["red big car", "blue small bus"]
    whole = "Which one? Choices: red big car, blue small bus."
    assert refine("Which one?", options, max_words=9) == whole
    assert refine("Which one?", options, max_words=8) == "Which one? Choices: red big, blue small."


def test_refining_twice_changes_nothing():
    once = refine("Question: in the video, who sings near the end?", ())
    assert refine(once) == once


def test_a_stem_without_options_stands_alone():
    assert with_choices("Who?", []) == "Who?"
    assert with_choices("", ["a"]) == ""


def remembered(folder, *entries) -> Remembered:
    path = folder / "index.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    return Remembered.load(path)


def test_an_index_remembers_refinements_whatever_letters_stand_before_the_options(tmp_path):
    entry = {"question": "Who sings?", "options": ["a man", "a dog"], "refined": "Singer? Choices: man, dog."}
    refiner = remembered(tmp_path, entry, {"question": "Why?"})
    assert refiner("who  sings?", ["A. a man", "B. a dog"]) == "Singer? Choices: man, dog."
    assert refiner("Who sings?", ["a man", "a cat"]) == refine("Who sings?", ["a man", "a cat"])
    assert refiner("Why?") == refine("Why?")


def test_an_index_that_contradicts_itself_or_is_damaged_is_refused_by_line(tmp_path):
    entry = {"question": "Who?", "refined": "Who is it?"}
    with pytest.raises(ValueError, match=r"index\.jsonl, line 2: refines 'Who\?' otherwise than an earlier line"):
        remembered(tmp_path, entry, {**entry, "refined": "Which man?"})
    for bad in ({"refined": "Who?"}, [], {"question": 3, "refined": "x"}):
        with pytest.raises(ValueError, match=r"index\.jsonl, line 2: no question of an index"):
            remembered(tmp_path, entry, bad)


@pytest.mark.parametrize(
    ("stem", "kept"),
    [
        ("What is the name of the video game?", "What is the name of the video game?"),
        ("Why is there a cake in the middle of the table?", "Why is there a cake in the middle of the table?"),
        ("Why did the lady in the middle wave her hand?", "Why did the lady in the middle wave her hand?"),
        ("What is at the end?", "What is at the end?"),
        ("What happens at the end of video?", "What happens?"),
        ("Who appears near the end of the video and sings?", "Who appears and sings?"),
        ("As shown in the video, who wins?", "Who wins?"),
        ("What did the U.S. give away?", "What did the U.S. give away?"),
        ("The man only wrote one word. What was it?", "The man only wrote one word. What was it?"),
    ],
)
def test_places_names_and_abbreviations_are_no_hints(stem, kept):
    assert refine(stem) == kept


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (("A. U.S. Army.", "B. U.K. Army."), "U.S. Army, U.K. Army."),
        (("U.S. Army.", "U.K. Army."), "U.S. Army, U.K. Army."),
        (("a.m.", "p.m."), "a.m., p.m."),
        (("a.m.", "noon"), "a.m., noon."),
        (("E. coli.", "C. elegans."), "E. coli, C. elegans."),
        (("A. E. coli.", "B. C. elegans."), "E. coli, C. elegans."),
        (("A.red", "B.blue"), "red, blue."),
        (("(a) red", "(b) blue"), "red, blue."),
    ],
)
def test_letters_of_options_are_told_from_initials(options, choices):
    assert refine("Which one?", options) == f"Which one? Choices: {choices}"


SUBJECTS = (
    "man",
    "lady in the middle",
    "video game",
    "U.S. team",
    "clip art",
    "girl at the start line",
    "footage shop",
)
VERBS = ("do", "hold in the middle of the road", "see at the end of the rope", "give away", "say to the video editor")
HINTS = ("", " in the video", " near the end of the clip", " at the beginning of the video", " in this video clip")
STARTS = ("", "According to the video, ", "Question: ", "In the video, ", "Based on the given video, ")
ENDS = ("", " Answer with the option's letter from the given choices directly.", "\nPlease select one option.")


@given(*map(st.sampled_from, (STARTS, SUBJECTS, VERBS, HINTS, ENDS)))
def test_no_word_is_lost_that_is_no_instruction_letter_or_hint(start, subject, verb, hint, end):
    bare = f"what does the {subject} {verb}"
    found = refine(f"{start}{bare}{hint}?{end}")
    assert found == f"W{bare[1:]}?"
    assert not re.search(r"\b(of|in|the|at|to|on|from)\W*$", found)


COLORS = ("red", "blue", "white", "green")
ANSWERS: dict[str | None, list[str]] = {
    "A": [
        "A", "A.", "A. red", "red", "Red.", "A red one", "A is correct", "The best answer is: A", "Not B but red",
        "The answer is A because it is", "<answer>A</answer> B",
    ],
    "B": [
        "B", "b", "B.", "B) blue", "b) blue", "B. red", "B: wave", "**B**", "[B]", "(B)", "\\boxed{B}",
        "$\\boxed{\\text{B}}$",
        "<answer>B</answer>", "<answer>\nB. blue\n</answer>", "Answer: (B)", "Answer: **(B)** red", "Answer:\nB",
        "The correct option is B.", "I choose option B", "blue", "The answer is A blue star", "It's B.", "答案是B",
        "Answer: B\nExplanation: A and C are false.", "The answer is B. Option A shows a red ball.",
        "First A seems right. But C shows it. The answer is B", "The answer is (B) because of A",
        "<think>A or C? The answer is A.</think>\nB", "The answer is not A but B",
    ],
    "C": [
        " (C)\n", "Answer: C", "It is C because", "White.", "the answer is a white star", "'C'", "I would pick C",
        "The answer is not B; it is C", "Option A is wrong. Option C fits.",
    ],
    "D": ["D.", "I think D", "The answer is D.", "The star is green", "A green star", 'the answer: "green"'],
    None: [
        "", "purple", "red or blue", "B or C", "A and B", "redder", "E", "I do not know", "Based on the video",
        "Cats", "Both are shown",
        "It is not B.", "E.T. is shown", "D's ball", "The color is B/C", "<answer></answer>", "A star",
        "B is named in a sentence that is so long that nobody can tell what it means by it",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), [(text, letter) for letter in ANSWERS for text in ANSWERS[letter]])
def test_an_answer_is_read(text: str, letter: str | None) -> None:
    assert chosen_letter(text, COLORS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Vitamin C is shown", "A"), ("E. coli", "B"), ("E. coli is shown", "B"), ("B. E. coli", "B"), ("C", "C"),
        ("C is shown", None), ("dark green", "D"), ("green", None),
    ],
)  # fmt: skip
def test_a_letter_within_an_options_text_is_no_answer(text: str, letter: str | None) -> None:
    assert chosen_letter(text, ("vitamin C", "E. coli", "plan C", "dark green")) == letter


@given(st.text(max_size=30), st.permutations(COLORS))
def test_reading_never_fails_or_guesses(text: str, options: list[str]) -> None:
    first = chosen_letter(text, options)
    assert first is None or first in "ABCD"
    assert first == chosen_letter(text, options)


FORMS = [
    "{}", "{}.", "({})", "{}) {text}", "{}. {text}", "{}: {text}", "**{}**", "Answer: {}", "The answer is {}.",
    "The correct option is ({}).", "\\boxed{{{}}}", "<answer>{}</answer>", "<think>A, B or C.</think> {}",
]  # fmt: skip


@given(st.lists(st.text("abcdefgh ", min_size=2, max_size=9), min_size=2, max_size=5, unique=True), st.data())
def test_common_forms_of_a_letter_are_read_whatever_the_options_say(options: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(options) - 1))
    text = data.draw(st.sampled_from(FORMS)).format("ABCDE"[place], text=options[place])
    assert chosen_letter(text, options) == "ABCDE"[place]

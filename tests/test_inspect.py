"""What `sotune inspect` and `sotune.inspect_data` say of a file before anything is done with it."""

import json
import shutil
from dataclasses import asdict

import pytest
from rich.console import Console
from typer.testing import CliRunner

import sotune
from sotune import ConfigError, DataError, miniature
from sotune.cli import app
from sotune.cli.inspection import inspection_parts
from sotune.models import ModelSpec
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings

ROWS = [
    {"question": "What is 2 plus 2?", "answer": "It is 4.", "note": "a remark that nobody reads here"},
    {"question": "Name a fruit.", "answer": "An apple.", "note": "another remark that is long enough"},
    {"question": "Name a fruit.", "answer": "An apple.", "note": "another remark that is long enough"},
    {"question": "Name a bird.", "answer": " ", "note": "one more remark that is long enough"},
    {"question": "Say <eos> and \x1b[31mred\x1b[0m \u202eevil", "answer": "[bold]Red[/bold] \U000e0041.", "note": ""},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CHATS = [
    {
        "tools": [TOOL],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
    },
    {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "<think>two and two</think>4", "weight": 0},
            {"role": "user", "content": "3+3?"},
            {"role": "assistant", "content": "<think>thrice</think>6"},
        ]
    },
]
TEMPLATE = """{% for m in messages %}<|{{ m.role | replace('tool', 'user') }}|>{{ m.content.split('</think>')[-1] }}
{%- for c in m.tool_calls or [] %}CALL {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}<eos>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.fixture
def file(tmp_path):
    """Five rows and a line that is no JSON."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "no json\n", encoding="utf-8")
    return path


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHATS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tool_model(tiny_model, tmp_path_factory):
    """The tiny model with a template that writes tool calls and drops thoughts."""
    folder = tmp_path_factory.mktemp("tool") / "model"
    shutil.copytree(tiny_model("llama"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def cli(*args, **env):
    return CliRunner().invoke(app, ["inspect", *map(str, args)], env=env)


def texts(row, *, learned):
    return [piece.text for piece in row.pieces if piece.learned is learned]


def test_what_is_detected_and_the_totals(file, model):
    found = sotune.inspect_data(file, model=model)
    assert (found.format, found.columns) == ("prompt-completion", {"prompt": "question", "completion": "answer"})
    assert found.unused == ("note",)
    assert (found.n_read, found.n_valid, found.n_quarantined, found.n_duplicates) == (6, 4, 2, 1)
    assert found.template == {"template": "chat", "max_length": 512}
    assert found.n_special == 1
    assert any("in 1 row the text itself has special tokens" in warning for warning in found.warnings)
    assert found.n_lossy == 0
    assert {reason.kind: reason.n_rows for reason in found.quarantine} == {"empty text": 1, "broken JSON": 1}
    assert found.quarantine[0].first == (f"{file}:4: answer",)
    assert any("a run would stop" in warning for warning in found.warnings)
    assert len(found.rows) == 3


def test_lengths_are_those_of_the_rows_before_they_are_cut(file, model):
    whole = sotune.inspect_data(file, model=model, rows=4)
    cut = sotune.inspect_data(file, model=model, rows=4, max_length=20)
    lengths = [row.n_tokens for row in whole.rows]
    assert [row.n_tokens for row in cut.rows] == lengths
    for found in (whole, cut):
        assert found.lengths.total == sum(lengths)
        assert found.lengths.longest == max(lengths)
        assert found.lengths.longest_id == found.rows[lengths.index(max(lengths))].id
        assert found.lengths.median == sorted(lengths)[1]
        assert found.lengths.learned == sum(row.n_learned for row in found.rows)
    assert whole.lengths.n_truncated == 0
    assert cut.lengths.n_truncated == sum(length > 20 for length in lengths) > 0
    assert [row.n_lost for row in cut.rows] == [max(0, length - 20) for length in lengths]


def test_pieces_are_the_tokens_that_are_trained_on(file, model):
    (row,) = sotune.inspect_data(file, model=model, row="1").rows
    assert row.place == f"{file}:1"
    assert texts(row, learned=True) == ["It is 4.<eos>"]
    assert texts(row, learned=False)[0] == "<bos><|user|>What is 2 plus 2?<eos>\n<|assistant|>"
    renderer = load_renderer(ModelSpec(str(model)), RenderingSettings())
    learned = renderer.tokenizer("It is 4.<eos>", add_special_tokens=False)["input_ids"]
    assert row.n_learned == len(learned)


def test_without_a_model_the_papers_template_is_shown_and_no_tokens(file):
    found = sotune.inspect_data(file)
    assert found.model is None
    assert found.lengths is None
    assert found.template["template"] == "paper"
    assert found.rows[0].n_tokens is None
    assert [(piece.text, piece.learned) for piece in found.rows[0].pieces] == [
        ("Human: What is 2 plus 2?; Assistant:", False),
        (" It is 4.", True),
    ]
    assert "name a model with --model" in " ".join(cli(file).output.split())
    with pytest.raises(ConfigError, match="name a model"):
        sotune.inspect_data(file, template="chat")


def test_turns_tool_calls_and_thoughts_are_told(chats, tool_model):
    found = sotune.inspect_data(chats, model=tool_model)
    assert found.holds == {
        "a system turn": 1,
        "several learned turns": 1,
        "tool calls": 1,
        "tools": 1,
        "turns that are not learned": 1,
        "thoughts": 1,
    }
    assert texts(found.rows[0], learned=True) == ['CALL weather {"city": "Rome"}<eos>', "It is sunny.<eos>"]
    assert texts(found.rows[1], learned=True) == ["6<eos>"]
    assert found.columns == {"conversation": "messages", "tools": "tools"}
    assert (found.n_lossy, found.n_omitting) == (1, 1)
    assert [(row.lossy, row.omits) for row in found.rows] == [(False, True), (True, False)]
    assert any("the template drops a part of the completion" in warning for warning in found.warnings)


def test_what_the_template_refuses_would_be_quarantined(chats, model):
    found = sotune.inspect_data(chats, model=model)
    assert (found.n_valid, found.n_quarantined) == (1, 1)
    assert found.quarantine[0].kind == "cannot be rendered"
    (first,) = found.quarantine[0].first
    assert first.startswith(f"{chats}:1: the chat template leaves out all that turn 3 says")


@pytest.mark.parametrize("row", ["7", "{file}:2"])
def test_a_row_is_found_by_its_id_or_its_place(tmp_path, row):
    path = tmp_path / "ids.jsonl"
    path.write_text(
        '{"id": 5, "prompt": "a", "completion": "b"}\n{"id": 7, "prompt": "c", "completion": "d"}\n', encoding="utf-8"
    )
    (found,) = sotune.inspect_data(path, row=row.format(file=path)).rows
    assert (found.id, found.place) == ("7", f"{path}:2")


def test_an_id_goes_before_a_line(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text(
        '{"id": 2, "prompt": "a", "completion": "b"}\n{"id": 9, "prompt": "c", "completion": "d"}\n', encoding="utf-8"
    )
    assert [row.place for row in sotune.inspect_data(path, row="2").rows] == [f"{path}:1"]
    assert [row.id for row in sotune.inspect_data(path, row="1").rows] == ["2"]


def test_a_row_that_is_refused_says_why(file):
    (row,) = sotune.inspect_data(file, row="4").rows
    assert (row.quarantined, row.pieces) == ("empty text: answer", ())
    assert "would be quarantined: empty text: answer" in cli(file, "--row", "4").output


def test_a_row_that_is_not_there(file):
    with pytest.raises(DataError, match="no row that is read has the id or line 'zzz'"):
        sotune.inspect_data(file, row="zzz")
    assert cli(file, "--row", "zzz").exit_code == 2


def test_text_that_the_tokenizer_does_not_know_is_told(file):
    found = sotune.inspect_data(file, model=miniature.model_path())
    assert any("text that the tokenizer does not know" in warning for warning in found.warnings)


def test_filters_limits_and_columns_are_those_of_weigh(file):
    assert sotune.inspect_data(file, where=["answer=An apple."]).n_filtered_out == 3
    assert sotune.inspect_data(file, limit=2).n_valid == 2
    swapped = sotune.inspect_data(file, prompt_column="answer", completion_column="note", limit=1)
    assert swapped.columns == {"prompt": "answer", "completion": "note"}
    with pytest.raises(ConfigError, match="unknown setting 'limits'"):
        sotune.inspect_data(file, limits=2)


def test_the_settings_of_a_run_are_read_from_its_file(file, model, tmp_path):
    settings = tmp_path / "weigh.yaml"
    settings.write_text(
        f"data: {file}\nsafe_anchor: a\nharmful_reference: b\nmodel: {model}\npreset: paper\nmax_length: 16\n",
        encoding="utf-8",
    )
    found = sotune.inspect_data(config=settings)
    assert found.template == {"template": "paper", "max_length": 16}
    assert sotune.inspect_data(config=settings, max_length=32).template["max_length"] == 32
    assert cli("--config", settings, "--rows", "0").exit_code == 0


def test_the_command_marks_what_is_learned_and_prints_no_control_character(file, model):
    result = cli(file, "--model", model, "--row", "5")
    assert result.exit_code == 0
    assert "⟦[bold]Red[/bold] \\ue0041.<eos>⟧" in result.output
    assert "Say <eos> and \\u001b[31mred\\u001b[0m \\u202eevil" in result.output
    assert "1 special token in its text, read as text" in result.output
    assert not set(result.output) & {"\x1b", "\u202e", "\U000e0041"}


def test_a_terminal_gets_color_and_no_brackets(file, model, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    parts = list(inspection_parts(sotune.inspect_data(file, model=model, rows=1), whole=False))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(parts[-1])
    assert "\x1b[1;32mIt is 4.<eos>\x1b[0m" in captured.get()
    assert "⟦" not in captured.get()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦It is 4.<eos>⟧" in cli(file, "--model", model, NO_COLOR="1").output


def test_long_texts_are_shortened_unless_their_row_is_asked_for(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "begin " + "x" * 5000 + " end", "completion": "ok"}) + "\n", encoding="utf-8")
    assert "characters …]" in cli(path).output
    assert "x" * 5000 in cli(path, "--row", "1").output


def test_no_text_is_printed_where_no_row_is_wanted(file, model):
    output = cli(file, "--model", model, "--rows", "0").output
    assert "apple" not in output
    assert "learned text is" not in output


def test_json_is_the_inspection(file, model):
    result = cli(file, "--model", model, "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(asdict(sotune.inspect_data(file, model=str(model)))))


def test_nothing_is_read_in_a_dry_run(file):
    result = cli(file, "--model", "no/model", "--dry-run")
    assert result.exit_code == 0
    assert "would inspect" in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows"),
        ("no json\n", "none of its 1 rows can be used"),
        ('{"a": 1}\n', "the columns fit no known format"),
    ],
)
def test_a_file_of_which_nothing_can_be_shown_is_refused_by_word(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    result = cli(path)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

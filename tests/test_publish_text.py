from test_publish_sample import TASKS, sample_run, spec

from evalsuite.publish import tables, text
from evalsuite.publish.canvas import plain


def test_changes_have_no_more_digits_than_their_interval_supports():
    assert text.change(-0.0031, (-0.0051, -0.0011)) == "−0.31"
    assert text.change(-0.011, (-0.023, 0.001)) == "−1.1"
    assert text.bounds((-0.023, 0.001)) == "[−2.3, +0.1]"


def test_zero_has_no_sign():
    assert text.change(-0.0000001, (-0.02, 0.02)) == "0.0"


def test_p_values_near_alpha_are_not_rounded_to_it():
    assert text.p_value(0.0504) == "0.0504"
    assert text.p_value(0.00003).endswith("0.0001")
    assert text.p_value(0.764) == "0.764"


def test_a_certifiable_margin_is_never_rounded_down():
    assert text.margin_up(0.02431) == "2.5 points"
    assert text.margin_up(0.024) == "2.4 points"
    assert text.margin(0.07) == "7 points"
    assert text.margin(0.01) == "1 point"


def test_a_share_of_nothing_is_not_zero_percent():
    assert text.share(0, 0) == "none of 0"
    assert text.share(0, 400).startswith("0 of 400 (0.0")


def test_a_sentence_loses_the_verdict_that_stands_above_it():
    assert text.sentence("SAFE, DEGRADED: on new items; it holds; so there.", "SAFE") == (
        "On new items.", "It holds; so there.")  # fmt: skip
    assert text.sentence("Nothing to say", "SAFE") == ("Nothing to say.", "")
    assert text.sentence("task a: broken", "INVALID") == ("Task a: broken.", "")


def test_moments_are_utc_to_the_minute_and_other_text_stays():
    assert text.moment("2026-11-24T06:44:12+01:00") == "2026-11-24 05:44Z"
    assert text.moment("<b>yesterday</b>") == "<b>yesterday</b>"


def test_slugs_are_file_names_and_differ_for_different_ids():
    assert text.slug("20261124-054400-reference-a1b2") == "20261124-054400-reference-a1b2"
    hostile = [text.slug(name) for name in ("../../etc", "../..-etc", "a/b", "a\\b", "", ".", "<x>")]
    assert len(set(hostile)) == len(hostile)
    assert all("/" not in name and "\\" not in name and not name.startswith(".") for name in hostile)


def test_names_are_drawn_unchanged_by_plotly():
    assert plain("<b>a & b</b>") == "&lt;b&gt;a &amp; b&lt;/b&gt;"


def test_csv_has_a_row_a_gate_and_no_formulas():
    bad = spec(tasks=tuple(t.model_copy(update={"task": f"=HYPERLINK({t.task})"}) for t in spec().tasks))

    rows = tables.decisions(sample_run(bad)).splitlines()

    assert len(rows) == 1 + 4 * (1 + len(TASKS))
    assert any(",'=HYPERLINK(ref_boolean)," in row for row in rows)
    assert not any(",=" in row for row in rows)


def test_names_may_break_after_their_joints_and_stay_escaped():
    assert text.breakable("bbh_cot/<b>") == "bbh_<wbr>cot/<wbr>&lt;b&gt;"
    assert text.breakable("ends_") == "ends_"

"""Files that strangers made of a good records.csv, each with what becomes of it.

A function takes the rows of the good file, the header first, and returns the bytes of theirs. Its
name says what they did.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.vitbench.examples import (
    backbone_case,
    case,
    ceilings,
    environment,
    measured,
    plan,
)
from vitbench.cases.case import Case
from vitbench.results import journal as journals
from vitbench.results.columns import COLUMNS
from vitbench.results.csv import derive
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Outcome

Rows = list[list[str]]
Change = Callable[[Rows], bytes]

_ROUNDS = (0.0100, 0.01001, 0.00999, 0.0100, 0.01002)


def numbered_case() -> Case:
    """One whose id spreadsheets take for a number."""
    cases = (case(dim=2 * dim) for dim in itertools.count(1))
    return next(case for case in cases if case.id.isdecimal())


def good_run(folder: Path) -> Path:
    """A run folder: layers, a model and a failure, the rows 2 to 6 of its CSV file."""
    layers = [case(), case(attention="hilo", params=(("alpha", 0.9),)), numbered_case()]
    outcomes: dict[Case, list[Outcome]] = {
        one: [measured(*[factor * median] * 10) for median in _ROUNDS]
        for one, factor in zip([*layers, backbone_case()], (1.0, 1.3, 1.7, 2.1), strict=True)
    }
    failure = Failed("unsupported", 'ValueError: "no", said it;\tand left')
    outcomes |= {case(dim=64): [failure] * len(_ROUNDS)}
    run = Run(plan(*outcomes, rounds=len(_ROUNDS)), environment(), ceilings())
    with journals.create(folder, run.plan) as journal:
        journal.append(journals.environment_entry(run.environment, run.ceilings))
        for index, (one, own) in itertools.product(range(len(_ROUNDS)), outcomes.items()):
            journal.append(journals.outcome_entry(one, index, own[index]))
    derive(folder, journals.read(folder))
    return folder


def rows_of(folder: Path) -> Rows:
    """The cells of a run's CSV file."""
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def text_of(rows: Rows, delimiter: str = ",", end: str = "\n") -> str:
    """A CSV file of these cells."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return file.getvalue()


def with_cell(rows: Rows, name: str, text: str, row: int = 2) -> bytes:
    """One cell is another; rows are counted as a spreadsheet does."""
    rows[row - 1][rows[0].index(name)] = text
    return text_of(rows).encode()


def _german(rows: Rows) -> Rows:
    """With decimal commas; texts stay as they are."""
    numbers = {column.name for column in COLUMNS if column.type == "float"}
    is_number = [name in numbers for name in rows[0]]
    return [
        rows[0],
        *(
            [
                cell.replace(".", ",") if is_it else cell
                for is_it, cell in zip(is_number, row, strict=True)
            ]
            for row in rows[1:]
        ),
    ]


# Read as if nothing had happened


def exported_by_excel(rows: Rows) -> bytes:
    capitals = [[{"true": "TRUE", "false": "FALSE"}.get(c, c) for c in row] for row in rows]
    return text_of(capitals, end="\r\n").encode()


def exported_by_excel_as_csv_utf_8(rows: Rows) -> bytes:
    return codecs.BOM_UTF8 + exported_by_excel(rows)


def exported_by_excel_in_german(rows: Rows) -> bytes:
    return text_of(_german(rows), ";", "\r\n").encode()


def exported_by_excel_in_german_as_csv_utf_8(rows: Rows) -> bytes:
    return codecs.BOM_UTF8 + exported_by_excel_in_german(rows)


def exported_by_excel_as_unicode_text(rows: Rows) -> bytes:
    return text_of(rows, "\t", "\r\n").encode("utf-16")


def exported_by_excel_in_german_as_unicode_text(rows: Rows) -> bytes:
    return text_of(_german(rows), "\t", "\r\n").encode("utf-16")


def opened_as_one_column_and_saved_by_excel_in_german(rows: Rows) -> bytes:
    lines = text_of(rows).splitlines()
    return text_of([[line] for line in lines], ";", "\r\n").encode()


def without_the_last_empty_cells_as_excel_does(rows: Rows) -> bytes:
    return text_of([rows[0], *(row[: len(row) - (not row[-1])] for row in rows[1:])]).encode()


def with_a_line_that_names_the_separator(rows: Rows) -> bytes:
    return b"sep=;\r\n" + text_of(rows, ";", "\r\n").encode()


def exported_by_libreoffice_with_semicolons(rows: Rows) -> bytes:
    return text_of(rows, ";").encode()


def with_tabs(rows: Rows) -> bytes:
    return text_of(rows, "\t").encode()


def with_pipes(rows: Rows) -> bytes:
    return text_of(rows, "|").encode()


def with_all_cells_quoted_and_decimal_commas(rows: Rows) -> bytes:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(_german(rows))
    return file.getvalue().encode()


def with_decimal_commas_in_round_medians(rows: Rows) -> bytes:
    column = rows[0].index("round_medians")
    for row in rows[1:]:
        row[column] = row[column].replace(".", ",")
    return text_of(_german(rows), ";").encode()


def in_utf_16_big_endian(rows: Rows) -> bytes:
    return codecs.BOM_UTF16_BE + text_of(rows).encode("utf-16-be")


def in_utf_16_without_a_mark(rows: Rows) -> bytes:
    return text_of(rows).encode("utf-16-le")


def in_utf_16_big_endian_without_a_mark(rows: Rows) -> bytes:
    return text_of(rows).encode("utf-16-be")


def with_the_line_ends_of_an_old_mac(rows: Rows) -> bytes:
    return text_of(rows, end="\r").encode()


def without_a_newline_at_the_end(rows: Rows) -> bytes:
    return text_of(rows).rstrip("\n").encode()


def with_a_last_line_of_commas(rows: Rows) -> bytes:
    return text_of([*rows, [""] * len(rows[0])]).encode()


def with_lines_of_nothing_between(rows: Rows) -> bytes:
    return text_of([line for row in rows for line in ([], row, [" "] * 5)]).encode()


def with_empty_columns_at_the_end(rows: Rows) -> bytes:
    return text_of([[*row, "", "", ""] for row in rows]).encode()


def with_an_empty_column_between(rows: Rows) -> bytes:
    return text_of([[*row[:9], "", *row[9:]] for row in rows]).encode()


def with_spaces_around_cells(rows: Rows) -> bytes:
    return text_of([[f" {cell} " for cell in row] for row in rows]).encode()


def with_exponents(rows: Rows) -> bytes:
    column = rows[0].index("latency_s")
    for row in rows[1:]:
        row[column] = row[column] and f"{float(row[column]):.8E}"
    return text_of(rows).encode()


def written_from_a_data_frame_with_its_index(rows: Rows) -> bytes:
    """A column of whole numbers with empty cells is one of floats there."""
    words = {"true": "True", "false": "False"}
    whole = {rows[0].index(name) for name in ("samples", "rounds", "macs", "stride", "dim")}
    frame = [
        [str(number), *(f"{c}.0" if i in whole and c else words.get(c, c) for i, c in enumerate(r))]
        for number, r in enumerate(rows[1:])
    ]
    return text_of([["", *rows[0]], *frame]).encode()


def with_columns_in_another_order(rows: Rows) -> bytes:
    return text_of([row[::-1] for row in rows]).encode()


def sorted_by_attention(rows: Rows) -> bytes:
    column = rows[0].index("attention")
    return text_of([rows[0], *sorted(rows[1:], key=lambda row: row[column])]).encode()


def with_a_column_of_notes(rows: Rows) -> bytes:
    return text_of([[*row, "my notes" if row is rows[0] else "ask; Ann"] for row in rows]).encode()


def with_the_id_of_digits_as_a_number(rows: Rows) -> bytes:
    return with_cell(rows, "case", f"{int(numbered_case().id):.2E}", row=4)


def with_the_id_of_digits_as_a_number_in_german(rows: Rows) -> bytes:
    with_cell(rows, "case", f"{int(numbered_case().id):.5E}".replace(".", ","), row=4)
    return exported_by_excel_in_german(rows)


READ: tuple[Change, ...] = (
    exported_by_excel,
    exported_by_excel_as_csv_utf_8,
    exported_by_excel_in_german,
    exported_by_excel_in_german_as_csv_utf_8,
    exported_by_excel_as_unicode_text,
    exported_by_excel_in_german_as_unicode_text,
    opened_as_one_column_and_saved_by_excel_in_german,
    without_the_last_empty_cells_as_excel_does,
    with_a_line_that_names_the_separator,
    exported_by_libreoffice_with_semicolons,
    with_tabs,
    with_pipes,
    with_all_cells_quoted_and_decimal_commas,
    with_decimal_commas_in_round_medians,
    in_utf_16_big_endian,
    in_utf_16_without_a_mark,
    in_utf_16_big_endian_without_a_mark,
    with_the_line_ends_of_an_old_mac,
    without_a_newline_at_the_end,
    with_a_last_line_of_commas,
    with_lines_of_nothing_between,
    with_empty_columns_at_the_end,
    with_an_empty_column_between,
    with_spaces_around_cells,
    with_exponents,
    written_from_a_data_frame_with_its_index,
    with_columns_in_another_order,
    sorted_by_attention,
    with_a_column_of_notes,
    with_the_id_of_digits_as_a_number,
    with_the_id_of_digits_as_a_number_in_german,
)


# Refused


def cut_in_the_middle_of_a_row(rows: Rows) -> bytes:
    return text_of(rows[:4]).encode()[:-300]


def cut_in_a_row_and_saved_by_an_editor(rows: Rows) -> bytes:
    return cut_in_the_middle_of_a_row(rows) + b"\n"


def cut_inside_quotation_marks(rows: Rows) -> bytes:
    data = text_of(rows).encode()
    return data[: data.rindex(b"said it")]


def cut_in_the_middle_of_a_character(rows: Rows) -> bytes:
    return text_of(rows).encode("utf-16")[:-1]


def cut_in_the_header(rows: Rows) -> bytes:
    return text_of(rows).encode()[:100]


def emptied(rows: Rows) -> bytes:
    return b""


def replaced_by_a_picture(rows: Rows) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0"


def replaced_by_the_samples(rows: Rows) -> bytes:
    return b"case,round,sample,latency_s\na,0,0,0.1\n"


def saved_with_the_code_page_of_windows(rows: Rows) -> bytes:
    with_cell(rows, "device_name", "A CPU™ of 2 threads")
    return text_of(rows).encode("cp1252")


def with_a_title_above_the_header(rows: Rows) -> bytes:
    return text_of([["My results"], *rows]).encode()


def without_the_header(rows: Rows) -> bytes:
    return text_of(rows[1:]).encode()


def without_latencies(rows: Rows) -> bytes:
    column = rows[0].index("latency_s")
    return text_of([row[:column] + row[column + 1 :] for row in rows]).encode()


def with_a_column_renamed(rows: Rows) -> bytes:
    return with_cell(rows, "round_medians", "medians", row=1)


def with_a_column_twice(rows: Rows) -> bytes:
    return text_of([[*row, row[0]] for row in rows]).encode()


def two_files_in_one(rows: Rows) -> bytes:
    return text_of(rows + rows).encode()


def with_a_row_copied(rows: Rows) -> bytes:
    return text_of([*rows, rows[1]]).encode()


def with_a_row_copied_and_its_latency_changed(rows: Rows) -> bytes:
    second = dict(zip(rows[0], rows[1], strict=True))
    second |= {"latency_s": "0.02", "latency_low_s": "0.02", "latency_high_s": "0.02"}
    second |= {"throughput_img_s": "100", "round_medians": "0.02", "rounds": "1"}
    return text_of([*rows, list(second.values())]).encode()


def with_a_cell_deleted(rows: Rows) -> bytes:
    del rows[1][rows[0].index("message")]
    return text_of(rows).encode()


def with_a_cell_inserted(rows: Rows) -> bytes:
    rows[1].insert(rows[0].index("message"), "")
    return text_of(rows).encode()


def with_a_remark_beside_the_table(rows: Rows) -> bytes:
    return text_of([rows[0], [*rows[1], "odd!"], *rows[2:]]).encode()


def with_decimal_commas_between_commas(rows: Rows) -> bytes:
    return "\n".join(",".join(row) for row in _german(rows)).encode() + b"\n"


def with_ids_as_numbers_in_german(rows: Rows) -> bytes:
    with_cell(rows, "case", "1,23E+11")
    return exported_by_excel_in_german(rows)


def with_latencies_sorted_alone(rows: Rows) -> bytes:
    column = rows[0].index("latency_s")
    cells = sorted((row[column] for row in rows[1:5]), reverse=True)
    for row, cell in zip(rows[1:5], cells, strict=True):
        row[column] = cell
    return text_of(rows).encode()


def with_the_round_medians_of_another_row(rows: Rows) -> bytes:
    return with_cell(rows, "round_medians", rows[2][rows[0].index("round_medians")])


def with_a_number_of_20_digits(rows: Rows) -> bytes:
    return with_cell(rows, "params", "9" * 20)


def without_a_height(rows: Rows) -> bytes:
    return with_cell(rows, "image_height", "", row=6)


def with_attentions_sorted_alone(rows: Rows) -> bytes:
    column = rows[0].index("attention")
    rows[1][column], rows[2][column] = rows[2][column], rows[1][column]
    return text_of(rows).encode()


_LATENCY = "row 2, column latency_s: expected a finite number of 0 or more (s), got "
_EXCEL = "in Excel, import the file"

# A piece of the sentence.
REFUSED: Mapping[Change, str] = {
    cut_in_the_middle_of_a_row: "cells: the file is cut off there",
    cut_in_a_row_and_saved_by_an_editor: "row 4, column ",
    cut_inside_quotation_marks: "row 6 lacks a quotation mark, or the file is cut off there",
    cut_in_the_middle_of_a_character: "it is not text in UTF-8 or UTF-16",
    cut_in_the_header: "is not a CSV file of records: it has no column",
    emptied: "is not a CSV file of records: it has no column 'case'",
    replaced_by_a_picture: "it is not text in UTF-8 or UTF-16",
    replaced_by_the_samples: "is not a CSV file of records: it has no column 'attention'",
    saved_with_the_code_page_of_windows: _EXCEL,
    with_a_title_above_the_header: "is not a CSV file of records: it has no column 'case'",
    without_the_header: "is not a CSV file of records: it has no column 'case'",
    without_latencies: "it has no column 'latency_s'",
    with_a_column_renamed: "it has no column 'round_medians'",
    with_a_column_twice: "two columns are called 'case'",
    two_files_in_one: "row 7 is the header again",
    with_a_row_copied: "rows 2 and 7 are both of the case ",
    with_a_row_copied_and_its_latency_changed: "rows 2 and 7 are both of the case ",
    with_a_cell_deleted: "row 2, column ",
    with_a_cell_inserted: "row 2, column ",
    with_a_remark_beside_the_table: "row 2 has 'odd!' in column",
    with_decimal_commas_between_commas: "row 2",
    with_ids_as_numbers_in_german: _EXCEL,
    with_latencies_sorted_alone: "row 2, column throughput_img_s: expected batch_size / latency",
    with_the_round_medians_of_another_row: "row 2, column round_medians: expected times in seconds",
    with_a_number_of_20_digits: "row 2, column params: expected a whole number of 0 or more",
    without_a_height: "row 6, column image_height: expected a whole number of 0 or more (pixels)",
    with_attentions_sorted_alone: "row 2, column case: the other columns are of the case ",
}

# The same by the column and the text of a cell in row 2.
REFUSED_CELLS: Mapping[tuple[str, str], str] = {
    ("latency_s", "0,01"): _LATENCY + "'0,01'; if a spreadsheet wrote it: in Excel",
    ("macs", "81.920"): "row 2, column macs: expected a whole number",
    ("macs", "81,920"): "got '81,920'; if a spreadsheet wrote it: in Excel",
    ("macs", "8.192E+04"): "got '8.192E+04'; if a spreadsheet wrote it: in Excel",
    ("case", "1.23E+11"): _EXCEL,
    ("latency_s", "Jan 45"): _LATENCY + "'Jan 45'",
    ("latency_s", "abc"): _LATENCY + "'abc'",
    ("latency_s", "-1"): _LATENCY + "'-1'",
    ("latency_s", "0"): "row 2, column latency_s: expected a time over 0 s, got 0",
    ("latency_s", "inf"): _LATENCY + "'inf'",
    ("latency_s", "nan"): _LATENCY + "'nan'",
    ("latency_s", "1e999"): _LATENCY + "'1e999'",
    ("latency_s", ""): _LATENCY + "nothing",
    ("latency_s", "10"): "row 2, column throughput_img_s: expected batch_size / latency",
    ("round_medians", "fast slow"): "row 2, column round_medians: expected times in seconds",
    ("round_medians", "0.01"): "row 2, column rounds: expected the 1 of round_medians, got 5",
    ("round_medians", ""): "row 2, column round_medians: expected a text, got nothing",
    ("throughput_img_s", ""): "row 2, column throughput_img_s: expected a finite number",
    ("throughput_img_s", "2000"): "row 2, column throughput_img_s: expected batch_size / latency_s",
    ("samples", "-3"): "row 2, column samples: expected a whole number",
    ("samples", "2.5"): "row 2, column samples: expected a whole number",
    ("launch_bound", "maybe"): "row 2, column launch_bound: expected true or false, got 'maybe'",
    ("trust", "A+"): "row 2, column trust: expected A, B, C, D, got 'A+'",
    ("status", "mesured"): "no status is called 'mesured'; nearest: measured",
    ("status", ""): "row 2, column status: ",
    ("device_name", ""): "row 2, column device_name: expected a text, got nothing",
    ("dim", "48"): "row 2, column case: the other columns are of the case ",
    ("dtype", "float16"): "row 2, column case: the other columns are of the case ",
}

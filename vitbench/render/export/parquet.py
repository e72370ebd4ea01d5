"""Parquet: the columns of records.csv with their types and units, and published accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping

from vitbench import __version__
from vitbench.instruments import Column
from vitbench.render.export import Format, Results
from vitbench.render.export._figures import PUBLISHED, published
from vitbench.results.columns import COLUMNS

FORMAT = Format(
    name="parquet",
    summary="typed columns with units and meanings, for pandas, DuckDB and their like",
    suffix=".parquet",
    is_text=False,
    packages=("pyarrow",),
)
_NAME = Column("name", "", "the case's name, in words", "text")


def render(results: Results) -> Mapping[str, bytes]:
    """One row a case. A field's metadata are its unit and its meaning."""
    import pyarrow
    from pyarrow import parquet

    types = {
        "text": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
    }
    columns = (_NAME, *COLUMNS, *PUBLISHED)
    names = results.names()
    fields = [
        pyarrow.field(
            column.name,
            types[column.type],
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in columns
    ]
    schema = pyarrow.schema(fields, metadata={"vitbench": __version__})
    rows = [
        {"name": names[str(record["case"])], **record, **published(record)}
        for record in results.records
    ]
    arrays = [
        pyarrow.array([_value(row[field.name]) for row in rows], type=field.type)
        for field in fields
    ]
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file)
    return {"": file.getvalue()}


def _value(value: object) -> object:
    """Names of files may hold bytes that are no text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return value

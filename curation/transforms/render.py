"""A document under a transform, as the segments that are encoded: what counting and writing share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.chat import Segments, Specials, segments
from curation.preference.margin import NAME as MARGIN
from curation.transforms.fim import fim_of, fim_segments


def render(table: pa.Table | pa.RecordBatch, transform: str, specials: Specials) -> tuple[Segments, np.ndarray]:
    """The segments of documents (columns DOCUMENT_COLUMNS, one kind) and which of them the transform changes.

    `transform`: as in a manifest's rows. Raises ValueError as `curation.chat.segments` does.
    """
    fim = fim_of(transform)
    if fim is not None:
        return fim_segments(table, fim, specials)
    transform = "pair" if transform.startswith(MARGIN) else transform
    return segments(table, transform, specials), np.ones(len(table), bool)

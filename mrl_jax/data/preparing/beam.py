"""The same shards written by an Apache Beam pipeline, on as many machines as its runner has.

Every worker needs this package, and SOURCE and DIR under the same paths.
"""

import shlex
from collections.abc import Sequence

from mrl_jax.data.preparing.shards import write_shard


def run(calls: Sequence[tuple[str, str, str, int]], arguments: str) -> None:
    """Calls `write_shard` for each of `calls`; `arguments` are those of the pipeline, such as "--runner=DirectRunner".

    Raises:
      ImportError: where Apache Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(f"--beam needs Apache Beam ({error}): pip install 'mrl_jax[beam]'") from error
    if not calls:
        return
    with apache_beam.Pipeline(options=PipelineOptions(shlex.split(arguments))) as pipeline:
        shards = pipeline | "Plan" >> apache_beam.Create(calls) | "Spread" >> apache_beam.Reshuffle()
        shards | "WriteShard" >> apache_beam.Map(_write)


def _write(call: tuple[str, str, str, int]) -> int:
    return write_shard(*call).examples

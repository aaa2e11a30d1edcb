"""From files as they come to a dataset in our format: list what is there, plan the shards, write each; the manifest.

A shard is a pure function of the plan and its number (`shards.write_shard`), so that it does not matter which process
or machine writes it, how often, or when.
"""

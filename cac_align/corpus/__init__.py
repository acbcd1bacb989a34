"""A corpus of videos judged into one table, and what is done with such a table.

Reading order: ``sources`` (the videos: files, folders, globs, manifests), ``verdict_rows`` (a verdict as a row),
``parts`` (finished rows on the disk), ``judging`` (decoding ahead, asking the judge), ``job`` (one process, several,
or shards, and the merge), ``ray_pool``; ``table_files`` reads and writes Parquet, JSONL and CSV. With the table:
``conditions`` keeps rows, ``rates`` counts, ``gallery`` shows; ``judged``, ``pairs`` and ``pair_files`` make preference
pairs of it.
"""

"""Tables between stages: Parquet files that notice damage, and Great Expectations suites made from their contracts."""

-- The table for clickhouse-connect.json: columns are filled by the names of the event's fields.
-- ClickHouse's connector sees no headers: event_id is the key of duplicates, and lines of different
-- sites need different names.

CREATE TABLE clearline_defects
(
    event_id String,
    event_time_ms Int64,
    time DateTime64(3, 'UTC') MATERIALIZED fromUnixTimestamp64Milli(event_time_ms, 'UTC'),
    line LowCardinality(String),
    camera LowCardinality(String),
    epoch UInt64,
    sequence UInt64,
    part_id UInt64,
    late Bool,
    score Float64,
    threshold Float64,
    score_ratio Nullable(Float64),
    latency_ms Float64,
    plc_sent Nullable(Bool),
    strips UInt32,
    region_count UInt32,
    max_region_area_mm2 Nullable(Float64),
    max_region_x_mm Nullable(Float64),
    max_region_y_mm Nullable(Float64),
    web_position_mm Nullable(Float64),
    model LowCardinality(String),
    image_ref Nullable(String)
)
ENGINE = ReplacingMergeTree
ORDER BY event_id;

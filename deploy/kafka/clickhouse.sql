-- Clearline's events in ClickHouse, read from Kafka by ClickHouse itself.
--
-- An event may come twice. (source, id) is its key of duplicates, and ReplacingMergeTree keeps one
-- row of each; until it has merged, ask with FINAL: SELECT ... FROM clearline_events FINAL.
-- Both copies have the same time, and so lie in the same partition, where they are merged.

CREATE TABLE clearline_events
(
    source String,
    id String,
    type LowCardinality(String),
    time DateTime64(3, 'UTC'),
    line LowCardinality(String),
    camera LowCardinality(Nullable(String)),
    kind LowCardinality(String),
    reason LowCardinality(Nullable(String)),
    count Nullable(UInt64),
    epoch Nullable(UInt64),
    sequence Nullable(UInt64),
    part_id Nullable(UInt64),
    late Nullable(Bool),
    score_ratio Nullable(Float64),
    latency_ms Nullable(Float64),
    plc_sent Nullable(Bool),
    strips Nullable(UInt32),
    region_count Nullable(UInt32),
    max_region_area_mm2 Nullable(Float64),
    max_region_x_mm Nullable(Float64),
    max_region_y_mm Nullable(Float64),
    web_position_mm Nullable(Float64),
    model LowCardinality(Nullable(String)),
    image_ref Nullable(String),
    data String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (source, id);

-- Nothing is kept here: it is the reader. One message that is no JSON does not stop it.
CREATE TABLE clearline_queue (data String)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka-1:9092,kafka-2:9092',
    kafka_topic_list = 'clearline.defect.v1,clearline.camera.v1,clearline.line.v1',
    kafka_group_name = 'clickhouse-clearline',
    kafka_format = 'JSONAsString',
    kafka_handle_error_mode = 'stream';

CREATE MATERIALIZED VIEW clearline_arrivals TO clearline_events AS
SELECT
    _headers.value[indexOf(_headers.name, 'ce_source')] AS source,
    _headers.value[indexOf(_headers.name, 'ce_id')] AS id,
    _headers.value[indexOf(_headers.name, 'ce_type')] AS type,
    fromUnixTimestamp64Milli(JSONExtract(data, 'event_time_ms', 'Int64'), 'UTC') AS time,
    JSONExtractString(data, 'line') AS line,
    JSONExtract(data, 'camera', 'Nullable(String)') AS camera,
    if(JSONHas(data, 'kind'), JSONExtractString(data, 'kind'), 'defect') AS kind,
    JSONExtract(data, 'reason', 'Nullable(String)') AS reason,
    JSONExtract(data, 'count', 'Nullable(UInt64)') AS count,
    JSONExtract(data, 'epoch', 'Nullable(UInt64)') AS epoch,
    JSONExtract(data, 'sequence', 'Nullable(UInt64)') AS sequence,
    JSONExtract(data, 'part_id', 'Nullable(UInt64)') AS part_id,
    JSONExtract(data, 'late', 'Nullable(Bool)') AS late,
    JSONExtract(data, 'score_ratio', 'Nullable(Float64)') AS score_ratio,
    JSONExtract(data, 'latency_ms', 'Nullable(Float64)') AS latency_ms,
    JSONExtract(data, 'plc_sent', 'Nullable(Bool)') AS plc_sent,
    JSONExtract(data, 'strips', 'Nullable(UInt32)') AS strips,
    JSONExtract(data, 'region_count', 'Nullable(UInt32)') AS region_count,
    JSONExtract(data, 'max_region_area_mm2', 'Nullable(Float64)') AS max_region_area_mm2,
    JSONExtract(data, 'max_region_x_mm', 'Nullable(Float64)') AS max_region_x_mm,
    JSONExtract(data, 'max_region_y_mm', 'Nullable(Float64)') AS max_region_y_mm,
    JSONExtract(data, 'web_position_mm', 'Nullable(Float64)') AS web_position_mm,
    JSONExtract(data, 'model', 'Nullable(String)') AS model,
    JSONExtract(data, 'image_ref', 'Nullable(String)') AS image_ref,
    data
FROM clearline_queue
WHERE _error = '' AND has(_headers.name, 'ce_id');

-- The trace of what was last asked for (W3C traceparent); empty where nothing is traced.
ALTER TABLE instances ADD COLUMN trace text NOT NULL DEFAULT '';

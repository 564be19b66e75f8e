-- Where a backend chose to launch an attempt, in its own words.
ALTER TABLE instances ADD COLUMN attempt_placement text;

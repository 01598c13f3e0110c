-- What a worker says is wrong with its machine, in sentences.
ALTER TABLE workers ADD COLUMN problems TEXT NOT NULL DEFAULT '[]';

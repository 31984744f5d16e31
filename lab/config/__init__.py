"""Files that people write, turned into validated values, with errors that name file, key and remedy."""

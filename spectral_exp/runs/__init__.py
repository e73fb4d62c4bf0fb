"""The records of runs, read as data that anybody could have written."""

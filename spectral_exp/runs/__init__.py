"""What runs recorded of themselves, read as if anybody could have written it."""

"""What two or more components share: errors, strict JSON, artifact types, reading Examples."""

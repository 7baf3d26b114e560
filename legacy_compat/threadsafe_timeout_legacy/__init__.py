"""Old APIs and formats on the new core, and a replica of the legacy runner to replay."""

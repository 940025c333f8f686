"""The longer queries of the image store."""

SIZES = """
    WITH RECURSIVE up (image, snapshot) AS (
        SELECT id, snapshot FROM images WHERE snapshot IS NOT NULL
        UNION ALL SELECT up.image, snapshots.parent FROM up
        JOIN snapshots ON snapshots.id = up.snapshot WHERE snapshots.parent IS NOT NULL
    ) SELECT up.image AS image,
        SUM(COALESCE(layers.size, json_extract(layers.blob, '$.size'), 0)) AS size
    FROM up JOIN snapshots ON snapshots.id = up.snapshot
    JOIN layers ON layers.id = snapshots.layer GROUP BY up.image
"""
SUMMARIES = """
    SELECT images.*, layers.settle FROM images
    LEFT JOIN snapshots ON snapshots.id = images.snapshot
    LEFT JOIN layers ON layers.id = snapshots.layer
"""
BY_DIGEST = """
    SELECT id, images.platform AS platform FROM images JOIN image_digests ON image = id
    WHERE repository = :repository AND digest = :digest
    UNION SELECT id, images.platform FROM images JOIN image_names ON image = id
    WHERE substr(name, 1, length(:repository) + 1) = :repository || ':'
    AND json_extract(manifest, '$.digest') = :digest ORDER BY platform
"""
"""What a registry knows by a digest, and what was made here with that manifest."""
DROP_NAMES = """
    DELETE FROM image_names WHERE substr(name, 1, length(:repository) + 1) = :repository || ':'
    AND image IN (SELECT id FROM images WHERE json_extract(manifest, '$.digest') = :digest)
"""

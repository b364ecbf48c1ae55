"""Which retained topics this node left on its broker, so that a later run can clear them."""

from detector.store.database import Database


class RetainedTopics:
    """Topics that carry a retained message of an ended or running stream."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remember(self, topic: str) -> None:
        """Note a topic; to be called before the message is published."""
        await self._database.write(
            lambda c: c.execute("INSERT OR IGNORE INTO retained_topics VALUES (?)", (topic,)).rowcount
        )

    async def forget(self, topic: str) -> None:
        """Strike a topic out; to be called after the broker took the clearing message."""
        await self._database.write(
            lambda c: c.execute("DELETE FROM retained_topics WHERE topic = ?", (topic,)).rowcount
        )

    async def all(self) -> list[str]:
        """Return every topic that was noted and not struck out."""
        return await self._database.read(
            lambda c: [row[0] for row in c.execute("SELECT topic FROM retained_topics ORDER BY topic")]
        )

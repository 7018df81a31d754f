"""Everything of Moorline on one laptop: the supervisor behind ``make up``.

It plays both sides. The provider's: portal and gateway in one process, a Celery worker with beat, an embedded Valkey.
And an example customer's: a PostgreSQL server and two HTTP services that only the real Moorline client can reach.
"""

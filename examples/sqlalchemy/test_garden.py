"""Tries the garden, and the driver by itself, against CUBBY_URL: a server with these migrations and the user ada.

CUBBY_TOKEN is an API key, if the server asks for one.
"""

import os
import unittest
from datetime import date
from decimal import Decimal

import libsql
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, inspect, select, text
from sqlalchemy.orm import Session

from garden import Bed, Plant, heights, open_garden, plant

URL = os.environ.get("CUBBY_URL", "http://127.0.0.1:8080")
SERVER = URL.removeprefix("http://")
TOKEN = os.environ.get("CUBBY_TOKEN", "")


class Garden(unittest.TestCase):
    def setUp(self):
        self.engine = open_garden(SERVER, "ada", TOKEN)
        self.addCleanup(self.engine.dispose)
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM beds"))

    def test_creates_reads_updates_and_deletes(self):
        bed = plant(self.engine, "north", ["ash", "elm"], date(2026, 3, 1), Decimal("1.50"))
        self.assertEqual(heights(self.engine), [("north", 2, 1.5)])
        with Session(self.engine) as session, session.begin():
            ash = session.scalars(select(Plant).where(Plant.species == "ash")).one()
            self.assertEqual((ash.planted, ash.height), (date(2026, 3, 1), Decimal("1.50")))
            ash.height = Decimal("2.50")
        self.assertEqual(heights(self.engine), [("north", 2, 2.0)])
        with Session(self.engine) as session, session.begin():
            session.delete(session.get(Bed, bed))
        self.assertEqual(heights(self.engine), [])

    def test_many_at_once(self):
        with self.engine.begin() as connection:
            connection.execute(insert(Bed), [{"name": f"bed {n}"} for n in range(50)])
        with self.engine.connect() as connection:
            self.assertEqual(connection.scalar(text("SELECT count(*) FROM beds")), 50)

    def test_a_transaction_rolls_back_whole_or_to_a_savepoint(self):
        with self.assertRaises(RuntimeError), Session(self.engine) as session, session.begin():
            session.add(Bed(name="gone"))
            session.flush()
            raise RuntimeError
        with Session(self.engine) as session, session.begin():
            session.add(Bed(name="kept"))
            session.flush()
            with self.assertRaises(RuntimeError), session.begin_nested():
                session.add(Bed(name="gone, too"))
                session.flush()
                raise RuntimeError
        with self.engine.connect() as connection:
            self.assertEqual(connection.scalars(text("SELECT name FROM beds")).all(), ["kept"])

    def test_a_conflict_is_an_error(self):
        plant(self.engine, "north", [], date(2026, 3, 1))
        with self.assertRaisesRegex(Exception, "UNIQUE constraint failed: beds.name"):
            plant(self.engine, "north", [], date(2026, 3, 1))

    def test_reflection(self):
        found = inspect(self.engine)
        self.assertLessEqual({"beds", "plants"}, set(found.get_table_names()))
        self.assertEqual(
            [(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns("plants")],
            [
                ("id", "INTEGER", False),
                ("bed_id", "INTEGER", False),
                ("species", "TEXT", False),
                ("height", "NUMERIC(6, 2)", True),
                ("planted", "DATE", True),
            ],
        )
        self.assertEqual(found.get_pk_constraint("plants")["constrained_columns"], ["id"])
        key = found.get_foreign_keys("plants")[0]
        self.assertEqual((key["constrained_columns"], key["referred_table"]), (["bed_id"], "beds"))
        self.assertEqual(key["options"], {"ondelete": "CASCADE"})
        self.assertEqual([each["name"] for each in found.get_indexes("plants")], ["plants_by_bed"])
        self.assertEqual([each["column_names"] for each in found.get_unique_constraints("beds")], [["name"]])

    def test_create_all_makes_nothing_where_all_is_there_and_is_told_where_it_goes(self):
        metadata = MetaData()
        metadata.reflect(self.engine, only=["beds", "plants"])
        metadata.create_all(self.engine)
        Table("mine", metadata, Column("id", Integer, primary_key=True), Column("name", Text))
        with self.assertRaisesRegex(Exception, "CUBBY_MIGRATIONS"):
            metadata.create_all(self.engine)


class Driver(unittest.TestCase):
    """The package libsql by itself, by the interface that Python's databases have."""

    def setUp(self):
        self.connection = libsql.connect(f"{URL}/ada/sql", auth_token=TOKEN)
        self.addCleanup(self.connection.close)
        self.connection.execute("DELETE FROM beds")
        self.connection.commit()

    def count(self):
        return self.connection.execute("SELECT count(*) FROM beds").fetchone()[0]

    def test_values(self):
        row = self.connection.execute("SELECT ?, ?, ?, ?, ?", (1, "a\u00e9", 2.5, None, b"\x00\xff")).fetchone()
        self.assertEqual(row, (1, "a\u00e9", 2.5, None, b"\x00\xff"))
        # Both ends arrive; as an argument the driver sends what is beyond 31 bits as a float, to local files as well.
        ends = self.connection.execute("SELECT 9223372036854775807, -9223372036854775808").fetchone()
        self.assertEqual(ends, (2**63 - 1, -(2**63)))

    def test_cursor(self):
        cursor = self.connection.execute("INSERT INTO beds (id, name) VALUES (7, 'a')")
        self.assertEqual((cursor.lastrowid, cursor.rowcount), (7, 1))
        self.connection.executemany("INSERT INTO beds (name) VALUES (?)", [("b",), ("c",)])
        self.connection.commit()
        cursor = self.connection.execute("SELECT id, name FROM beds ORDER BY id")
        self.assertEqual([column[0] for column in cursor.description], ["id", "name"])
        self.assertEqual(cursor.fetchone(), (7, "a"))
        self.assertEqual(cursor.fetchmany(1), [(8, "b")])
        self.assertEqual(cursor.fetchall(), [(9, "c")])

    def test_transactions(self):
        self.connection.execute("INSERT INTO beds (name) VALUES ('a')")
        self.assertTrue(self.connection.in_transaction)
        self.connection.rollback()
        self.assertEqual((self.connection.in_transaction, self.count()), (False, 0))
        self.connection.execute("INSERT INTO beds (name) VALUES ('a')")
        self.connection.commit()
        self.assertEqual(self.count(), 1)

    def test_script(self):
        self.connection.executescript("INSERT INTO beds (name) VALUES ('a'); INSERT INTO beds (name) VALUES ('b;c');")
        self.assertEqual(self.count(), 2)

    def test_error(self):
        with self.assertRaisesRegex(ValueError, "no such table: nothing_here"):
            self.connection.execute("SELECT * FROM nothing_here")
        self.assertEqual(self.count(), 0)


if __name__ == "__main__":
    unittest.main()

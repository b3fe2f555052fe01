"""A gardener's plants, one database a user, with SQLAlchemy.

The tables are those that the migrations made: columns are read from a database, and only relationships are written here.
All users have one schema, so that they are read once.
"""

from datetime import date
from decimal import Decimal

from sqlalchemy import create_engine, func, select
from sqlalchemy.engine import Engine
from sqlalchemy.ext.declarative import DeferredReflection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, relationship


class Base(DeferredReflection, DeclarativeBase):
    pass


class Bed(Base):
    __tablename__ = "beds"
    plants: Mapped[list["Plant"]] = relationship(back_populates="bed", cascade="all, delete-orphan", passive_deletes=True)


class Plant(Base):
    __tablename__ = "plants"
    bed: Mapped[Bed] = relationship(back_populates="plants")


def open_garden(server: str, user: str, token: str | None = None) -> Engine:
    """A user's database: `server` such as 127.0.0.1:8080, and a key or session token if it asks for one."""
    arguments = {"auth_token": token} if token else {}
    engine = create_engine(f"sqlite+libsql://{server}/{user}/sql?secure=false", connect_args=arguments)
    Base.prepare(engine)
    return engine


def plant(engine: Engine, name: str, species: list[str], planted: date, height: Decimal | None = None) -> int:
    """Plants several in a new bed, or nothing."""
    with Session(engine) as session, session.begin():
        bed = Bed(name=name, plants=[Plant(species=each, planted=planted, height=height) for each in species])
        session.add(bed)
        session.flush()
        return bed.id


def heights(engine: Engine) -> list[tuple[str, int, float | None]]:
    """Each bed with how many plants it has, and how high they are."""
    query = (
        select(Bed.name, func.count(Plant.id), func.avg(Plant.height)).join(Plant).group_by(Bed.id).order_by(Bed.name)
    )
    with Session(engine) as session:
        return [tuple(row) for row in session.execute(query)]

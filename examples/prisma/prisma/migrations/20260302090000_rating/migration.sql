-- AlterTable
ALTER TABLE "Book" ADD COLUMN "rating" REAL;

-- CreateIndex
CREATE INDEX "Book_authorId_idx" ON "Book"("authorId");

DROP INDEX "by_user";--> statement-breakpoint
ALTER TABLE `users` ALTER COLUMN "email" TO "email" text NOT NULL DEFAULT 'x';--> statement-breakpoint
CREATE INDEX `by_user` ON `posts` (`user`);
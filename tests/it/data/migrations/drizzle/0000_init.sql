CREATE TABLE `posts` (
	`id` integer PRIMARY KEY NOT NULL,
	`user` integer NOT NULL,
	`title` text DEFAULT 'none' NOT NULL,
	FOREIGN KEY (`user`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `by_user` ON `posts` (`user`);--> statement-breakpoint
CREATE TABLE `users` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`email` text
);

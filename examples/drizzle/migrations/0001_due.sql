ALTER TABLE `todos` ADD `due` integer;--> statement-breakpoint
CREATE INDEX `todos_by_list` ON `todos` (`list`);
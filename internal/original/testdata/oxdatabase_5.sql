-- MySQL dump 10.13  Distrib 5.7.44, for Linux (x86_64)
--
-- Host: localhost    Database: oxdatabase_5
-- ------------------------------------------------------
/*!40101 SET NAMES utf8 */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;

DROP TABLE IF EXISTS `credentials`;
CREATE TABLE `credentials` (
  `cid` int(10) unsigned NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `password` varchar(64) NOT NULL,
  `login` varchar(64) NOT NULL,
  PRIMARY KEY (`cid`,`user`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8;
LOCK TABLES `credentials` WRITE;
INSERT INTO `credentials` VALUES (1,3,'wJ0aK9sealed','anna');
UNLOCK TABLES;

CREATE TABLE `mobileEventSubscriptions` (
  `cid` int(10) unsigned NOT NULL,
  `service` varchar(64) CHARACTER SET latin1 NOT NULL,
  `token` varchar(255) CHARACTER SET latin1 NOT NULL,
  `provider` varchar(64) CHARACTER SET latin1 NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `timestamp` bigint(20) NOT NULL,
  `blockLoginPushUntil` bigint(20) NOT NULL DEFAULT '0',
  PRIMARY KEY (`cid`,`service`,`token`,`provider`),
  KEY `duplicate` (`cid`,`service`,`token`,`provider`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii;
INSERT INTO `mobileEventSubscriptions` VALUES (1,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','mail',3,1700000000000,0),(1,'gcm','cReg1:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx','mail',4,1700000100000,0),(2,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','mail',7,1700000200000,0),(1,'apn','a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2','drive',3,1700000000000,0),(1,'apn','not a token','mail',3,1700000000000,0),(1,'apn','a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9','mail',9,1700000000000,0);

CREATE TABLE `pns_subscription` (
  `id` binary(16) NOT NULL,
  `cid` int(10) unsigned NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `token` varchar(255) NOT NULL,
  `client` varchar(64) NOT NULL,
  `transport` varchar(32) NOT NULL,
  `last_modified` bigint(64) NOT NULL,
  `all_flag` tinyint(3) unsigned NOT NULL,
  `expires` bigint(64) DEFAULT NULL,
  PRIMARY KEY (`cid`,`user`,`token`(64)),
  UNIQUE KEY `id` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO `pns_subscription` VALUES (0x01010101010101010101010101010101,1,3,'b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1','open-xchange-mobile-api-facade','apn',1710000000000,0,NULL),(0x02020202020202020202020202020202,1,4,'cReg2:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx','open-xchange-mobile-api-facade','gcm',1710000000000,1,NULL),(0x03030303030303030303030303030303,2,7,'b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3','open-xchange-mobile-api-facade-brand1','apns_http2',1710000000000,0,1893456000000),(0x04040404040404040404040404040404,2,7,'','open-xchange-mobile-api-facade','websocket',1710000000000,1,NULL),(0x05050505050505050505050505050505,1,3,'b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5','open-xchange-mobile-api-facade','apn',1710000000000,0,NULL),(0x06060606060606060606060606060606,1,3,'b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6','open-xchange-mobile-api-facade','apn',1710000000000,1,1600000000000);
CREATE TABLE `pns_subscription_topic_exact` (`id` binary(16) NOT NULL, `cid` int NOT NULL, `topic` varchar(255) NOT NULL, PRIMARY KEY (`id`,`topic`));
INSERT INTO `pns_subscription_topic_exact` VALUES (0x01010101010101010101010101010101,1,'ox:mail:new'),(0x05050505050505050505050505050505,1,'ox:calendar:new');
INSERT INTO `pns_subscription_topic_wildcard` (`id`, `cid`, `topic`) VALUES (0x03030303030303030303030303030303,2,'ox:mail:');
INSERT INTO `registeredPush` (`cid`, `user`, `client`) VALUES (1,3,'open-xchange-mailapp'),(1,4,'open-xchange-mailapp');
CREATE TABLE `user` (
  `cid` int(10) unsigned NOT NULL,
  `id` int(10) unsigned NOT NULL,
  `imapServer` varchar(128) COLLATE utf8_unicode_ci DEFAULT NULL,
  `imapLogin` varchar(128) COLLATE utf8_unicode_ci DEFAULT NULL,
  `mail` varchar(256) COLLATE utf8_unicode_ci DEFAULT NULL,
  `userPassword` varchar(128) DEFAULT NULL,
  PRIMARY KEY (`cid`,`id`)
) ENGINE=InnoDB;
INSERT INTO `user` VALUES (1,2,'imap://localhost',NULL,'oxadmin@example.org','{CRYPT}x'),(1,3,'imap://localhost','anna@example.org','anna@example.org','it''s \\ \'quoted\''),(1,4,'imap://localhost','bert@example.org','bert@example.org',''),(2,7,NULL,'gerd@brand1.example','gerd@brand1.example',NULL);
INSERT INTO `user_attribute` (`cid`, `id`, `name`, `value`, `uuid`) VALUES (1,4,'config/com.openexchange.capability.mobile_mail_app','false',0x00),(1,3,'alias','anna@example.com',0x01);

-- Dump completed on 2024-04-01 12:00:00
